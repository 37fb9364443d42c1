"""What a cluster's machines can do: links, hosts and devices.

The figures of `Host` were measured with Python's gRPC on one core; see docs/foresight.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PlanError

CREDIT_BYTES = 32 * 1024 * 1024
"""The window of a worker's stream to a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Between a host and the network; each way carries as much, and neither slows the other.

    Args:
        bits_per_s: each way.
        latency_s: of one message, one way, from host to host.
        payload_share: what is left of `bits_per_s` without the headers of Ethernet, IP and TCP.
    """

    bits_per_s: float
    latency_s: float = 0.0
    payload_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.bits_per_s > 0:
            raise PlanError(f"bits_per_s must be more than 0, got {self.bits_per_s}")
        if not self.latency_s >= 0:
            raise PlanError(f"latency_s cannot be negative, got {self.latency_s}")
        if not 0 < self.payload_share <= 1:
            raise PlanError(f"payload_share must be from 0 to 1, got {self.payload_share}")

    def seconds(self, num_bytes: float) -> float:
        """How long so many bytes of payload take, one way."""
        return num_bytes * 8 / (self.bits_per_s * self.payload_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a host's processor spends on communication.

    Args:
        cores: of the host; where several hosts share a machine, each has its part of them.
        computing: cores that the step's own computation keeps busy until it has ended.
        message_s: CPU seconds to send or to receive a message, whatever its length.
        byte_s: CPU seconds to send or to receive a byte.
        sum_byte_s: CPU seconds to add a byte of a contribution to a sum.
    """

    cores: float
    computing: float = 0.0
    message_s: float = 0.2e-3
    byte_s: float = 0.3e-9
    sum_byte_s: float = 0.15e-9

    def __post_init__(self) -> None:
        if not self.cores > 0:
            raise PlanError(f"cores must be more than 0, got {self.cores}")
        if not self.computing >= 0:
            raise PlanError(f"computing cannot be negative, got {self.computing}")

    def work_s(self, messages: float, num_bytes: float, summed_bytes: float) -> float:
        """CPU seconds, of all cores together."""
        return messages * self.message_s + num_bytes * self.byte_s + summed_bytes * self.sum_byte_s

    def done_until(self, now_s: float, *, computed_s: float) -> float:
        """CPU seconds that are free for communication until then, from the step's beginning."""
        left = max(self.cores - self.computing, 0.0)
        return left * min(now_s, computed_s) + self.cores * max(now_s - computed_s, 0.0)

    def done_at(self, work_s: float, *, computed_s: float) -> float:
        """When so many CPU seconds have been free: the other way round."""
        left = max(self.cores - self.computing, 0.0)
        if work_s <= left * computed_s:
            return work_s / left if left else computed_s
        return computed_s + (work_s - left * computed_s) / self.cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Those of a cluster. Each kind is modelled once, however many there are.

    Args:
        link: of every host, but for those below.
        slow_worker: the link of the slowest worker's host; None if all are alike.
        slow_server: the link of the slowest server's host; None if all are alike.
        host: None where its processor is never what others wait for.
        devices: G, replicas of one worker; their contributions are joined on its host.
        flops_per_s: of a device, for rebuilding gradients from factors; None for no time at all.
        update_byte_s: what a device takes to update a variable, by the byte of its gradient. It is
            part of a step of one worker alone, and begins where a result is there.
        credit_bytes: that a worker may have at one server before the server has added them.
        held_bytes: of a link, one way, that have left their queues and cannot be overtaken: what
            sockets and gRPC hold.
    """

    link: Link
    slow_worker: Link | None = None
    slow_server: Link | None = None
    host: Host | None = None
    devices: int = 1
    flops_per_s: float | None = None
    update_byte_s: float = 0.0
    credit_bytes: float = CREDIT_BYTES
    held_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise PlanError(f"devices must be at least 1, got {self.devices}")
        if self.flops_per_s is not None and not self.flops_per_s > 0:
            raise PlanError(f"flops_per_s must be more than 0, got {self.flops_per_s}")
        if not self.update_byte_s >= 0:
            raise PlanError(f"update_byte_s cannot be negative, got {self.update_byte_s}")
        if not self.credit_bytes > 0:
            raise PlanError(f"credit_bytes must be more than 0, got {self.credit_bytes}")
        if not self.held_bytes >= 0:
            raise PlanError(f"held_bytes cannot be negative, got {self.held_bytes}")

    @property
    def worker_links(self) -> tuple[Link, ...]:
        """One of each kind."""
        return (self.link,) if self.slow_worker is None else (self.link, self.slow_worker)

    @property
    def server_links(self) -> tuple[Link, ...]:
        """One of each kind."""
        return (self.link,) if self.slow_server is None else (self.link, self.slow_server)
