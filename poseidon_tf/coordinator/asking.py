"""Asks a coordinator how its job is doing, from outside of the job."""

from __future__ import annotations

from typing import final

from poseidon_tf.coordinator.codec import STATUS
from poseidon_tf.coordinator.status import Status
from poseidon_tf.coordinator.status_codec import decode_status
from poseidon_tf.errors import ConfigError, PeerLost
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings


@final
class StatusQuestion:
    """A connection to the coordinator at `address`, "host:port" of worker rank 0.

    Raises:
      ConfigError: that is no address, or a file of `settings` cannot be read.
    """

    def __init__(self, address: str, settings: ConnectionSettings) -> None:
        self._address = address
        self._channel = Channel(address, settings=settings)

    def ask(self, *, timeout_s: float) -> Status:
        """How the job is doing now.

        Raises:
          StartTimeout: nobody answers there in `timeout_s` seconds.
          ConfigError: who answers has another token or certificate, or hosts no coordinator.
          PeerLost: the connection broke.
          ProtocolError: the answer is none.
        """
        self._channel.reach("the coordinator", timeout_s=timeout_s)
        try:
            reply = self._channel.call(STATUS, b"", timeout_s=timeout_s)
        except PeerLost as failure:
            if "not found" in str(failure).lower():  # gRPC's words for a method that nobody serves.
                raise ConfigError(
                    f"{self._address} is a member of a job, but not the one that hosts the "
                    "coordinator; give the address of worker rank 0"
                ) from failure
            raise
        return decode_status(reply)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()
