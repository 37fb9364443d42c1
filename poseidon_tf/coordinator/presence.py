"""How far a member has come in its job, and what the coordinator has told it. No threads.

Whoever feeds it holds one lock, and takes the time from a clock of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import final

from poseidon_tf.coordinator.messages import (
    Announced,
    CoordinatorMessage,
    Ended,
    Failure,
    Gathered,
    Left,
    Notice,
    NotNow,
    Pong,
    RosterView,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import PeerLost, PoseidonError, ProtocolError


class State(enum.Enum):
    """How far a member has come."""

    NEW = "has no stream to the coordinator, yet or any more, and may open one"
    ARRIVING = "has a stream, and waits for everyone to arrive"
    JOINED = "takes part"
    LEAVING = "is done, or the job is; the end of the stream is no surprise"
    CLOSED = "has no stream any more, and opens no other"


class Step(enum.Enum):
    """What takes a member from one state to the next."""

    OPEN = "it opens a stream"
    JOIN = "it has seen that everyone is here"
    LEAVE = "it leaves, or hears that the job has ended"
    END = "the stream has ended"


# What is not here changes nothing: one that leaves stays one that leaves.
_NEXT: Mapping[tuple[State, Step], State] = {
    (State.NEW, Step.OPEN): State.ARRIVING,
    (State.NEW, Step.LEAVE): State.LEAVING,
    (State.ARRIVING, Step.JOIN): State.JOINED,
    (State.ARRIVING, Step.LEAVE): State.LEAVING,
    (State.ARRIVING, Step.END): State.NEW,
    (State.JOINED, Step.LEAVE): State.LEAVING,
    (State.JOINED, Step.END): State.CLOSED,
    (State.LEAVING, Step.END): State.CLOSED,
}


@final
class Presence:
    """One member's.

    Args:
      num_workers, num_servers: P1 and P2; what does not fit them is refused.
      stopping: where this worker is in its training.

    Attributes:
      view: who else is there, from when everyone is.
      open_gathers: by name; None until it is answered.
      last_notice: who was waited for.
      not_now: why this member has to try again later.
      is_preempted: the job has ended, but some workers were not done.
      has_told: the coordinator has heard of a failure from here, or has told of one.
      num_pongs: how many pings were answered.
      clock_offset_s, round_trip_s: of the fastest ping.
      closed_error: what the last stream has ended with.
    """

    def __init__(self, *, num_workers: int, num_servers: int, stopping: Stopping) -> None:
        self.state = State.NEW
        self.view: RosterView | None = None
        self.open_gathers: dict[str, tuple[bytes, ...] | None] = {}
        self.stopping = stopping
        self.last_notice = ""
        self.not_now = ""
        self.is_preempted = False
        self.has_told = False
        self.num_pongs = 0
        self.clock_offset_s = 0.0
        self.round_trip_s = float("inf")
        self.closed_error: Exception | None = None
        self._num_workers = num_workers
        self._expected = [("worker", rank) for rank in range(num_workers)]
        self._expected += [("server", rank) for rank in range(num_servers)]

    @property
    def has_stream(self) -> bool:
        """Whether anything may still come from the coordinator."""
        return self.state not in (State.NEW, State.CLOSED)

    @property
    def is_arriving(self) -> bool:
        """Whether everyone has yet to arrive."""
        return self.state in (State.NEW, State.ARRIVING)

    @property
    def is_leaving(self) -> bool:
        """Whether this member takes part no more."""
        return self.state in (State.LEAVING, State.CLOSED)

    @property
    def saw_the_end(self) -> bool:
        """Whether everyone had arrived before it left: the job may be over before it looks."""
        return self.view is not None and self.is_leaving

    def take(self, step: Step) -> None:
        """`step` takes place."""
        self.state = _NEXT.get((self.state, step), self.state)

    def open(self) -> None:
        """Another stream is about to be opened; what the last one said is void."""
        self.take(Step.OPEN)
        self.view = None
        self.last_notice = self.not_now = ""
        self.num_pongs = 0
        self.closed_error = None

    def end(self, error: Exception | None) -> bool:
        """The stream has ended; whether that is a surprise to a member that takes part."""
        is_surprise = self.state is State.JOINED
        self.take(Step.END)
        self.closed_error = error
        return is_surprise

    def hear(self, heard: CoordinatorMessage, arrived_s: float) -> StopOffer | PoseidonError | None:
        """A message from the coordinator: what to answer, or what the job has failed of.

        Raises:
          ProtocolError: it is of another cluster; then nothing has changed.
        """
        self._check(heard)
        match heard:
            case RosterView():
                self.view = heard
            case Gathered(name, payloads) if name in self.open_gathers:
                self.open_gathers[name] = payloads
            case Notice(text):
                self.last_notice = text
            case Ended(preempted):
                self.take(Step.LEAVE)
                self.is_preempted = preempted
            case Failure(NotNow() as refusal):
                self.not_now = str(refusal)
            case Failure(error):
                self.has_told = True
                return error if self.state in (State.ARRIVING, State.JOINED) else None
            case Pong():
                self._take_pong(heard, arrived_s)
            case StopAsked():
                return self.stopping.asked(heard.number, heard.after)
            case StopAgreed():
                self.stopping.agree(heard.after)
        return None

    def loss(self, coordinator: str) -> PoseidonError:
        """The error that the end of the stream to `coordinator` stands for."""
        error = self.closed_error
        if isinstance(error, ProtocolError):
            return ProtocolError(f"{coordinator}: {error}")
        reason = "" if error is None else f": {error}"
        return PeerLost(f"{coordinator} closed the connection{reason}")

    def _check(self, heard: CoordinatorMessage) -> None:
        match heard:
            case RosterView(members=members):
                keys = [(member.role, member.rank) for member in members]
                if keys != self._expected:
                    raise ProtocolError(f"a roster of {len(keys)} members: not this cluster's")
            case Gathered(name, payloads) if len(payloads) != self._num_workers:
                raise ProtocolError(
                    f"gather {name!r} has {len(payloads)} parts, of {self._num_workers} workers"
                )
            case Left(role=role, rank=rank):
                if role != "worker" or rank >= self._num_workers:
                    raise ProtocolError(f"{role} {rank} has left, who is no worker of this cluster")
            case Announced(rank=rank) if rank not in {of for _, of in self._expected}:
                raise ProtocolError(f"rank {rank} has announced something, whom nobody knows")

    def _take_pong(self, pong: Pong, arrived_s: float) -> None:
        """Learn the offset from the fastest round trip: its middle is known best."""
        self.num_pongs += 1
        round_trip_s = arrived_s - pong.t_echo
        if 0.0 <= round_trip_s < self.round_trip_s:
            self.round_trip_s = round_trip_s
            self.clock_offset_s = pong.coordinator_time_ns / 1e9 - (arrived_s + pong.t_echo) / 2
