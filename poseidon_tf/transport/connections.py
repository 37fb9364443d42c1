"""How this process's connections behave: one value, handed to every server and channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.security import Security

Protocol = Literal["auto", "grpc", "grpc+tcp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The same for all connections of a process.

    Attributes:
      keepalive_s: seconds of silence after which a connection counts as broken; a third longer at
        the end that cannot make it again, which is the server's.
      resume_s: seconds for which a stream whose connection broke is taken up again, without loss,
        before its peer counts as lost; 0 for no longer than the connection.
      security: who may connect, and whether what is said is encrypted.
      protocol: "grpc", in which everything goes through gRPC; "grpc+tcp", in which messages of
        streams go over lanes where both ends have them; "auto", the latter without TLS.
      lane_ports: first and last port for lanes to come in; the system's choice if None.

    Raises:
      ConfigError: `protocol` is "grpc+tcp", and there is TLS.
    """

    keepalive_s: float = 30.0
    resume_s: float = 2.0
    security: Security = Security()
    protocol: Protocol = "auto"
    lane_ports: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.protocol == "grpc+tcp" and self.security.is_tls:
            raise ConfigError(
                "protocol='grpc+tcp' sends tensors in the clear, and this job has TLS; use "
                "protocol='auto' or 'grpc', or set up no TLS"
            )

    @property
    def has_lanes(self) -> bool:
        """Whether streams may have lanes. Nothing of a job with TLS leaves in the clear."""
        return self.protocol != "grpc" and not self.security.is_tls

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ConnectionSettings:
        """The settings that `dataclasses.asdict` took apart."""
        ports = fields.get("lane_ports")
        return cls(
            **{
                **fields,
                "security": Security(**fields["security"]),
                "lane_ports": tuple(ports) if ports else None,
            }
        )
