"""Hosts the roster in worker rank 0's process: streams and a clock, around pure decisions.

Every member, rank 0 included, comes in over a stream. What an event means is the roster's to say;
this file brings it events one at a time and carries its messages out.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import final

from poseidon_tf.coordinator.codec import (
    ATTEND,
    STATUS,
    decode_member_message,
    encode_coordinator_message,
)
from poseidon_tf.coordinator.limits import MAX_STRANGER_PINGS
from poseidon_tf.coordinator.messages import (
    Announce,
    CoordinatorMessage,
    Ended,
    Failure,
    Figures,
    Gather,
    Goodbye,
    Join,
    MemberFailure,
    MemberKey,
    MemberMessage,
    Notice,
    Ping,
    Pong,
    ServerFigures,
    StopOffer,
)
from poseidon_tf.coordinator.roster import HOST, Action, Roster
from poseidon_tf.coordinator.status import KnownFigures, Status, status_of
from poseidon_tf.coordinator.status_codec import encode_status
from poseidon_tf.errors import PoseidonError, ProtocolError
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream

_log = logging.getLogger("poseidon_tf")


@final
class CoordinatorService:
    """Serves `roster` on `server`, which the caller starts after this and stops after `close`.

    Args:
      server: needs room for one stream per member.
      roster: only this service may touch it from now on. Its `started_s` is by `clock`.
      tick_s: seconds between two looks at the deadlines.
      clock: seconds that never go back, for deadlines.
      wall_time_ns: nanoseconds since the epoch, the time that members align theirs with.
      restarts: how often the launcher has started the job anew.
    """

    def __init__(
        self,
        server: Server,
        roster: Roster,
        *,
        tick_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall_time_ns: Callable[[], int] = time.time_ns,
        restarts: int = 0,
    ) -> None:
        self._roster, self._restarts = roster, restarts
        self._figures: dict[MemberKey, KnownFigures] = {}
        self._tick_s = tick_s
        self._clock, self._started_s = clock, clock()
        self._wall_time_ns = wall_time_ns
        self._changed = threading.Condition()
        self._attendances: dict[MemberKey, _Attendance] = {}
        self._strangers: set[_Attendance] = set()  # Connected, not joined.
        # Filled under the lock, in the order of the decisions; emptied by one thread at a time.
        # None ends a stream.
        self._outbox: collections.deque[tuple[Stream, CoordinatorMessage | None]]
        self._outbox = collections.deque()
        self._delivering = threading.Lock()
        self._closing = threading.Event()
        server.add_stream(ATTEND, self._accept)
        server.add_unary(STATUS, lambda request: encode_status(self.status()))
        self._ticker = threading.Thread(
            target=self._tick, name="poseidon-coordinator-tick", daemon=True
        )
        self._ticker.start()

    @property
    def failure(self) -> PoseidonError | None:
        """Why the job failed, if it did."""
        with self._changed:
            return self._roster.failure

    def status(self) -> Status:
        """How the job is doing; waits for nobody."""
        with self._changed:
            now_s = self._clock()
            return status_of(
                self._roster,
                self._figures,
                now_s=now_s,
                running_s=now_s - self._started_s,
                restarts=self._restarts,
            )

    def close(self, *, timeout_s: float) -> bool:
        """Wait until every member has gone, then cut off who has not; True if all had gone."""
        with self._changed:
            all_gone = self._changed.wait_for(lambda: not self._attendances, timeout_s)
            left_over = [*self._attendances.values(), *self._strangers]
        self._closing.set()
        for attendance in left_over:
            attendance.stream.abort("the coordinator is closing")
        self._ticker.join()
        return all_gone

    def _tick(self) -> None:
        while not self._closing.wait(self._tick_s):
            with self._changed:  # Decide.
                self._post(self._roster.tick(self._clock()))
            self._deliver()  # Act.

    def _accept(self, stream: Stream) -> _Attendance:
        attendance = _Attendance(self, stream)
        with self._changed:
            self._strangers.add(attendance)
        return attendance

    def take(self, attendance: _Attendance, message_bytes: bytes) -> None:
        """One message of one stream."""
        arrived_ns = self._wall_time_ns()
        if attendance.is_refused:  # It could not hear what would follow.
            return
        try:
            message = decode_member_message(message_bytes)
            if isinstance(message, Ping):
                attendance.count_ping()
                pong = Pong(t_echo=message.t, coordinator_time_ns=arrived_ns)
                attendance.stream.send(encode_coordinator_message(pong))
                return
            with self._changed:  # Decide.
                self._post(self._decide(attendance, message))
        except PoseidonError as refusal:
            # Only the sender hears of it. A member stays and decides; a stranger has to go.
            attendance.stream.send(encode_coordinator_message(Failure(refusal)))
            if attendance.member is None:
                attendance.is_refused = True
                attendance.stream.close()
        self._deliver()  # Act.

    def _decide(self, attendance: _Attendance, message: MemberMessage) -> list[Action]:
        member = attendance.member
        if isinstance(message, Join):
            if member is not None:
                raise ProtocolError(f"{member} joined already, as which it cannot join again")
            actions = self._roster.join(message)
            attendance.member = message.key
            self._strangers.discard(attendance)
            self._attendances[message.key] = attendance
            return actions
        if member is None:
            raise ProtocolError(f"{attendance.stream.peer} has not joined")
        match message:
            case Gather():
                return self._roster.gather(member, message, self._clock())
            case StopOffer():
                return self._roster.offer_stop(member, message, self._clock())
            case Announce():
                return self._roster.announce(member, message)
            case Figures() if member.role == "worker":
                self._figures[member] = KnownFigures(message, self._clock())
                return []
            case ServerFigures() if member.role == "server":
                self._figures[member] = KnownFigures(message, self._clock())
                return []
            case MemberFailure():
                return self._roster.fail(member, message)
            case Goodbye(last_step, preempted):
                actions = self._roster.goodbye(member, last_step, preempted=preempted)
                self._outbox.append((attendance.stream, None))
                return actions
            case _:
                raise ProtocolError(f"{member} sent a {type(message).__name__}")

    def lose(self, attendance: _Attendance, error: Exception | None) -> None:
        """One stream has ended."""
        with self._changed:  # Decide.
            self._strangers.discard(attendance)
            if attendance.member is not None:
                del self._attendances[attendance.member]
                reason = "it ended the stream" if error is None else str(error)
                self._post(self._roster.lost(attendance.member, reason))
            self._changed.notify_all()
        self._deliver()  # Act.

    def _post(self, actions: list[Action]) -> None:
        """Put messages into the outbox; the caller holds the lock."""
        for member, message in actions:
            if isinstance(message, Notice) and member == HOST:
                _log.warning("%s", message.text)  # The host's own log is right here.
            elif (attendance := self._attendances.get(member)) is not None:
                self._outbox.append((attendance.stream, message))
                if _is_last_word(message):
                    self._outbox.append((attendance.stream, None))

    def _deliver(self) -> None:
        """Empty the outbox, in order; whoever finds it in someone else's hands waits for them."""
        last, last_bytes = None, b""
        with self._delivering:
            while self._outbox:
                stream, message = self._outbox.popleft()
                if message is None:
                    stream.close()
                    continue
                if message is not last:  # A message to all is one object, and can be long.
                    last, last_bytes = message, encode_coordinator_message(message)
                stream.send(last_bytes)


@final
class _Attendance:
    """One member's stream, and who it is once that is known."""

    def __init__(self, service: CoordinatorService, stream: Stream) -> None:
        self.stream = stream
        self.member: MemberKey | None = None
        self.is_refused = False  # A stranger that was told so; it is not heard again.
        self._service = service
        self._num_pings = 0

    def count_ping(self) -> None:
        """One more. Raises ProtocolError where a stranger asks without end: answers take memory."""
        self._num_pings += 1
        if self.member is None and self._num_pings > MAX_STRANGER_PINGS:
            raise ProtocolError(
                f"{self.stream.peer} pings {self._num_pings} times and has not joined"
            )

    def on_message(self, message: bytes) -> None:
        self._service.take(self, message)

    def on_closed(self, error: Exception | None) -> None:
        self._service.lose(self, error)


def _is_last_word(message: CoordinatorMessage) -> bool:
    """Whether the coordinator has nothing more to say after `message`."""
    return isinstance(message, Failure | Ended)
