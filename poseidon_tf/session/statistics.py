"""What a worker has sent, received and waited for, as a frozen object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from poseidon_tf.coordinator.messages import ServerFigures
from poseidon_tf.planner import Measured
from poseidon_tf.session.step_times import Medians
from poseidon_tf.transport.base import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadStatistics:
    """Tensor bytes of one scheme, without any framing.

    Attributes:
      sent_bytes: given to the transport, once per receiver.
      received_bytes: taken from it.
      exchanges: contributions made, over all variables and steps.
      network_bytes: this worker's share of what all processes of the job have sent over the
        network: what it sent to servers on other hosts and they to it, or what it sent to the
        other workers.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    exchanges: int = 0
    network_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatistics:
    """Everything that went over the streams to peers of one role, framing included.

    Attributes:
      num_streams, num_lanes: how many there are, and how many of them have a lane.
      reconnections: how often one of them broke and was taken up again.
    """

    sent_bytes: int = 0
    sent_messages: int = 0
    received_bytes: int = 0
    received_messages: int = 0
    num_streams: int = 0
    num_lanes: int = 0
    reconnections: int = 0

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
            reconnections=sum(max(0, stream.num_connections - 1) for stream in streams),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStatistics:
    """When this worker's variables were updated.

    Attributes:
      deferred: updates that were made at the beginning of the next step.
      flushes: updates that had to be made between two steps, by what needed them.
      why_in_step: why updates are made in the step, as of the last `fit`; empty if they are not.
    """

    deferred: int = 0
    flushes: Mapping[str, int] = field(default_factory=dict)
    why_in_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A worker's communication since it joined.

    Attributes:
      steps: training steps begun, of all models. A step ends where a gradient is exchanged again
        that it has exchanged already, and where `fit` begins.
      ps, sfb, rows: gradients, by the scheme of the plan.
      all_reduce: values that the program or a layer reduced by itself; they are in no plan.
      servers: parameter servers on other hosts.
      own_server: the server that this worker started on its own host, if it did.
      workers: sufficient factors and sparse rows, to and from the other workers.
      waiting_s: seconds in which all gradients of a step were sent and some sum was still missing.
      communicating_s: seconds in which some gradient was on its way.
      step_times: medians of the last steps, 1000 at most.
      ring_all_reduce_bytes: what this worker would have sent if a ring had summed the same
        gradients: 2 (P1 - 1) / P1 of their bytes; sparse rows as they were sent.
      updates: when variables were updated.
      told_by_servers: by index, what each server has told rank 0 last, at most a few seconds ago;
        empty on other ranks.
      probe: what all workers have measured as the job started, or since then if plans are by time;
        None if they were not asked to.
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
    communicating_s: float = 0.0
    step_times: Medians = Medians()
    ring_all_reduce_bytes: int = 0
    updates: UpdateStatistics = field(default_factory=UpdateStatistics)
    told_by_servers: Mapping[int, ServerFigures] = field(default_factory=dict)
    probe: Measured | None = None

    @property
    def hidden(self) -> float:
        """The part of the communication that computation has hidden, from 0 to 1."""
        return hidden_part(self.communicating_s, self.waiting_s)

    @property
    def network_bytes(self) -> int:
        """Of all gradients; to be compared with `ring_all_reduce_bytes`."""
        return self.ps.network_bytes + self.sfb.network_bytes + self.rows.network_bytes

    @property
    def reconnections(self) -> int:
        """How often a connection to a server or worker broke and was made again."""
        peers = (self.servers, self.own_server, self.workers)
        return sum(each.reconnections for each in peers)


def hidden_part(communicating_s: float, waiting_s: float) -> float:
    """Which part of the communication nobody had to wait for; 0 where there is none."""
    if communicating_s <= 0.0:
        return 0.0
    return min(max(0.0, 1.0 - waiting_s / communicating_s), 1.0)
