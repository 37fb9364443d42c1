"""What a worker has sent, received and waited for, as a frozen object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from poseidon_tf.transport.base import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadStatistics:
    """Tensor bytes of one scheme, without any framing.

    Attributes:
      sent_bytes: given to the transport, once per receiver.
      received_bytes: taken from it.
      exchanges: contributions made, over all variables and steps.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    exchanges: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatistics:
    """Everything that went over the streams to peers of one role, framing included.

    Attributes:
      num_streams, num_lanes: how many there are, and how many of them have a lane.
    """

    sent_bytes: int = 0
    sent_messages: int = 0
    received_bytes: int = 0
    received_messages: int = 0
    num_streams: int = 0
    num_lanes: int = 0

    @classmethod
    def of(cls, streams: Iterable[Traffic]) -> PeerStatistics:
        """The sum over these streams."""
        streams = list(streams)
        return cls(
            sent_bytes=sum(stream.sent_bytes for stream in streams),
            sent_messages=sum(stream.sent_messages for stream in streams),
            received_bytes=sum(stream.received_bytes for stream in streams),
            received_messages=sum(stream.received_messages for stream in streams),
            num_streams=len(streams),
            num_lanes=sum(stream.has_lane for stream in streams),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A worker's communication since it joined.

    Attributes:
      steps: training steps finished: how often the most used gradient was exchanged.
      ps, sfb, rows: gradients, by the scheme of the plan.
      all_reduce: values that the program or a layer reduced by itself; they are in no plan.
      servers: parameter servers on other hosts.
      own_server: the server that this worker started on its own host, if it did.
      workers: sufficient factors and sparse rows, to and from the other workers.
      waiting_s: seconds in which everything was sent and some sum was still missing.
    """

    steps: int = 0
    ps: PayloadStatistics = field(default_factory=PayloadStatistics)
    sfb: PayloadStatistics = field(default_factory=PayloadStatistics)
    rows: PayloadStatistics = field(default_factory=PayloadStatistics)
    all_reduce: PayloadStatistics = field(default_factory=PayloadStatistics)
    servers: PeerStatistics = field(default_factory=PeerStatistics)
    own_server: PeerStatistics = field(default_factory=PeerStatistics)
    workers: PeerStatistics = field(default_factory=PeerStatistics)
    waiting_s: float = 0.0
