"""What one member has heard from the coordinator so far, for its other threads to wait on.

Rule 1: only the stream's thread calls `on_message` and `on_closed`; it also runs the callbacks.
Rule 2: every field is read and changed under `changed`, which is notified of every change.
Rule 3: the first failure is kept; it goes to the callback only once the member has joined, and
        no longer when it leaves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import final

from poseidon_tf.coordinator.codec import decode_coordinator_message
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


@final
class Hearing:
    """The receiving end of a member's stream to the coordinator at `address`.

    Args:
      num_workers, num_servers: P1 and P2; what does not fit them is refused.
    """

    def __init__(
        self,
        address: str,
        *,
        num_workers: int,
        num_servers: int,
        on_failure: Callable[[PoseidonError], None],
        on_left: Callable[[int, int], None],
        on_ended: Callable[[], None],
        on_offer: Callable[[StopOffer], None],
        stopping: Stopping,
        on_announced: Callable[[int, str, bytes], None],
        clock: Callable[[], float],
        logger: logging.Logger,
    ) -> None:
        self.changed = threading.Condition()
        self.view: RosterView | None = None
        self.failure: PoseidonError | None = None
        self.open_gathers: dict[str, tuple[bytes, ...] | None] = {}  # None: not answered yet.
        self.stopping = stopping
        self.last_notice = ""
        self.not_now = ""  # Why this member has to try again later.
        self.is_preempted = False  # The job has ended, but some workers were not done.
        self.num_pongs = 0
        self.clock_offset_s = 0.0
        self.round_trip_s = float("inf")  # Of the fastest ping.
        self.is_heard = False  # Whoever is at the other end is a coordinator.
        self.is_closed = False
        self.closed_error: Exception | None = None
        self.is_joined = False  # Set by the member: it has been told that all are here.
        self.is_leaving = False  # Set by the member: the end of the stream is no surprise.
        self._address = address
        self._num_workers = num_workers
        self._expected = [("worker", rank) for rank in range(num_workers)]
        self._expected += [("server", rank) for rank in range(num_servers)]
        self._on_failure = on_failure
        self._on_left = on_left
        self._on_ended = on_ended
        self._on_offer = on_offer
        self._on_announced = on_announced
        self._clock = clock
        self._log = logger

    def begin_anew(self) -> None:
        """Another stream is about to be opened; what the last one said is void."""
        with self.changed:
            self.view = None
            self.last_notice = self.not_now = ""
            self.num_pongs = 0
            self.is_heard = self.is_closed = False
            self.closed_error = None

    def on_message(self, message: bytes) -> None:
        """One message from the coordinator. Raises ProtocolError; then nothing has changed."""
        arrived_s = self._clock()
        heard = decode_coordinator_message(message)
        self._check(heard)
        with self.changed:
            self.is_heard = True
            match heard:
                case RosterView():
                    self.view = heard
                case Gathered(name, payloads) if name in self.open_gathers:
                    self.open_gathers[name] = payloads
                case Notice(text):
                    self.last_notice = text
                case Ended(preempted):
                    self.is_leaving, self.is_preempted = True, preempted
                case Failure(NotNow() as refusal):
                    self.not_now = str(refusal)
                case Pong():
                    self._take_pong(heard, arrived_s)
                case StopAsked():
                    # Sent under the lock: what this worker does next must not overtake it.
                    if offer := self.stopping.asked(heard.number, heard.after):
                        self._on_offer(offer)
                case StopAgreed():
                    self.stopping.agree(heard.after)
            self.changed.notify_all()
        match heard:
            case Notice(text):
                self._log.warning("%s", text)
            case Failure(error) if not isinstance(error, NotNow):
                self.fail(error)
            case Left():
                self._on_left(heard.rank, heard.last_step)
            case Ended():
                self._on_ended()
            case Announced():
                self._on_announced(heard.rank, heard.topic, heard.payload)

    def _check(self, heard: CoordinatorMessage) -> None:
        """Raise ProtocolError if `heard` is of another cluster than this member was told of."""
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

    def on_closed(self, error: Exception | None) -> None:
        """The stream has ended."""
        with self.changed:
            self.is_closed = True
            self.closed_error = error
            is_surprise = self.is_joined and not self.is_leaving
            self.changed.notify_all()
        if is_surprise:
            self.fail(self.loss())

    def fail(self, error: PoseidonError) -> None:
        """Keep `error` if it is the first failure, and tell whoever must know."""
        with self.changed:
            if self.failure is not None:
                return
            self.failure = error
            must_tell = self.is_joined and not self.is_leaving
            self.changed.notify_all()
        if must_tell:
            self._on_failure(error)

    def loss(self) -> PoseidonError:
        """The error that a closed stream stands for."""
        coordinator = f"the coordinator (worker rank 0 at {self._address})"
        if isinstance(self.closed_error, ProtocolError):
            return ProtocolError(f"{coordinator}: {self.closed_error}")
        reason = "" if self.closed_error is None else f": {self.closed_error}"
        return PeerLost(f"{coordinator} closed the connection{reason}")

    def _take_pong(self, pong: Pong, arrived_s: float) -> None:
        """Learn the offset from the fastest round trip: its middle is known best."""
        self.num_pongs += 1
        round_trip_s = arrived_s - pong.t_echo
        if 0.0 <= round_trip_s < self.round_trip_s:
            self.round_trip_s = round_trip_s
            self.clock_offset_s = pong.coordinator_time_ns / 1e9 - (arrived_s + pong.t_echo) / 2
