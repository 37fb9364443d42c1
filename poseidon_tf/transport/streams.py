"""Long-lived streams of messages, each over one connection after the other.

Every stream has one thread that reads, for its whole life. A connection has one more that writes:
it takes messages from an `Outgoing`, so that whoever sends may coalesce or hold back without a
queue of finished messages. When a connection breaks, its writer leaves and the next one's goes on;
`resuming` says from where. The layers above notice nothing.

Rule 1: everything is read and changed under `_changed`, except while a receiver runs.
Rule 2: one writer at a time takes from the `Outgoing`, and records what it took before it leaves.
Rule 3: what comes over a connection that has a successor is not heard: the successor has begun
        with what had come by then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import NamedTuple, TypeAlias, final

from poseidon_tf.errors import PeerLost, PoseidonError, ProtocolError
from poseidon_tf.transport.base import MessageQueue, Outgoing, Receiver, Traffic
from poseidon_tf.transport.resuming import Ledger
from poseidon_tf.wire.frames import Message

# Wakes a writer that waits in its `Outgoing`; told from a message by being this very object.
_NUDGE = bytes(bytearray(b"nudge"))
_PAUSE_S = 0.05  # Between two attempts to connect.
Incoming: TypeAlias = Generator[Message, None, None]
Dial = Callable[["DialledStream", Iterator[Message], bool], tuple[Incoming, Callable[[], object]]]


class Broken(Exception):
    """A connection has ended before its stream.

    Attributes:
      is_final: another attempt would be in vain.
      refusal: what the stream ends with if the peer does not want it.
    """

    def __init__(
        self, detail: str, *, is_final: bool = False, refusal: PoseidonError | None = None
    ) -> None:
        super().__init__(detail)
        self.is_final = is_final or refusal is not None
        self.refusal = refusal


class Connection(NamedTuple):
    """One of a stream's connections.

    Attributes:
      messages: what comes over it; raises `Broken`. Closed by who hears them.
    """

    number: int
    messages: Incoming


class Stream:
    """One end of a bidirectional stream of messages. Every method may be called by any thread."""

    def __init__(
        self,
        peer: str,
        metadata: Mapping[str, str],
        outgoing: Outgoing | None = None,
        *,
        resume_s: float,
    ) -> None:
        self.peer = peer
        self.metadata = dict(metadata)
        self.traffic = Traffic()
        self.outgoing: Outgoing = outgoing or MessageQueue()
        self.refusal: str | None = None
        self.is_closed = False  # The receiver has heard of the end.
        self._resume_s = resume_s
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._source: Iterator[Message] | None = None
        self._is_taking = self._is_nudged = False
        self._is_over = False
        self._ended = threading.Event()
        self._number = 0  # Of the latest connection.
        self._last_broken = 0  # The number of the latest that broke.
        self._cut: Callable[[], object] = lambda: None  # Ends the latest connection.
        self._greeted_s = float("inf")
        self._broken_since_s = 0.0
        self._detail = ""  # How it broke then.
        self._progress = (-1, -1)  # Until then.

    def send(self, message: Message) -> None:
        """Queue `message`; never blocks, and does nothing once the stream is closed."""
        self.outgoing.put(message)

    def close(self) -> None:
        """Send what is queued, then nothing more."""
        self.outgoing.close()

    def abort(self, reason: str) -> None:
        """End the stream at once; on the server's side the peer is told `reason`."""
        self.refusal = reason
        self._end()

    def resume_within(self, resume_s: float) -> None:
        """From now on a connection may take so long to be made again; with 0 a break is the end."""
        with self._changed:
            self._resume_s = resume_s
            self._changed.notify_all()

    def wait_ended(self, *, timeout_s: float) -> bool:
        """Wait until the other side has ended the stream too; False at the deadline."""
        return self._ended.wait(timeout_s)

    def live(self, receiver: Receiver) -> None:
        """All that the reading thread does: hand messages over in order, say how it ended."""
        error: Exception | None = None
        try:
            while error is None and not self._is_done():
                connection = None
                try:
                    if (connection := self._connect()) is None:
                        error = self._loss()
                        break
                    self._listen(connection, receiver)
                    self._note_break(connection.number, "it ended too early")
                except Broken as breakage:
                    if breakage.refusal is not None:  # Before the writer leaves, to tell the peer.
                        self.refusal = self.refusal or str(breakage.refusal)
                    number = self._number if connection is None else connection.number
                    self._note_break(number, str(breakage))
                    if breakage.is_final:
                        error = breakage.refusal or self._loss(str(breakage))
        except Exception as failure:  # The receiver's own: it learns of it in on_closed.
            if self.is_closed:
                raise
            error = failure
            self.refusal = str(failure)
        finally:
            try:
                # First: when the peer hears of a refusal, the stream's place is free again.
                self._close(receiver, error)
            finally:
                self._end()
                self._ended.set()

    def _listen(self, connection: Connection, receiver: Receiver) -> None:
        number = connection.number
        with contextlib.closing(connection.messages) as messages:
            for message in messages:
                with self._changed:
                    if number != self._number:
                        return
                    payload = self._hear(message)
                    if self._greeted_s == float("inf"):
                        self._greeted_s = time.monotonic()
                        self.traffic.num_connections += 1
                    if payload is None:
                        self._changed.notify_all()
                    if self._ledger.must_tell:
                        self._wake_writer()
                if payload is not None:
                    receiver.on_message(payload)
                elif self._ledger.peer_has_ended:
                    self._close(receiver, None)

    def _hear(self, message: Message) -> Message | None:
        try:
            return self._ledger.hear(message)
        except ProtocolError as failure:
            self.refusal = str(failure)
            raise Broken(str(failure), refusal=failure) from failure

    def _is_done(self) -> bool:
        with self._changed:
            return self._ledger.is_done

    def _close(self, receiver: Receiver, error: Exception | None) -> None:
        if not self.is_closed:
            try:
                receiver.on_closed(error)
            finally:
                self.is_closed = True
                self.outgoing.close()

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._wake_writer()
        self.outgoing.close()

    def write(self, number: int) -> Iterator[Message]:
        """What goes out over connection `number`; ends with it, or with the stream."""
        while (message := self._next_outgoing(number)) is not None:
            yield message

    def _next_outgoing(self, number: int) -> Message | None:
        ledger = self._ledger
        with self._changed:
            while self._last_broken < number == self._number and not self._is_over:
                if (message := ledger.take()) is not None:
                    return message
                if ledger.is_done:
                    break
                if not ledger.is_resumed:
                    self._wait_greeting(number)
                elif self._is_taking or ledger.has_ended:
                    self._changed.wait()
                else:
                    self._take_outgoing()
        return None

    def _take_outgoing(self) -> None:
        """Add the next message to the ledger, or the end; without the lock while it waits."""
        if self._source is None:
            self._source = iter(self.outgoing)
        self._is_taking = True
        self._changed.release()
        message: Message | None = None
        try:
            message = next(self._source, None)
        except Exception as failure:
            self.abort(f"a message could not be made: {failure!r}")
            raise
        finally:
            self._changed.acquire()
            self._is_taking = False
        if message is None:
            self._ledger.end()
        elif message is _NUDGE:
            self._is_nudged = False
        else:
            self._ledger.add(message)
        if self._number != 1:
            self._changed.notify_all()  # A successor may wait for what this one took.

    def _wait_greeting(self, number: int) -> None:
        left_s = self._broken_since_s + self._resume_s - time.monotonic()
        if left_s > 0.0:
            self._changed.wait(left_s)
        else:
            self._last_broken = number
            self._cut()

    def _wake_writer(self) -> None:
        self._changed.notify_all()
        if self._is_taking and not self._is_nudged:
            self._is_nudged = True
            self.outgoing.put(_NUDGE)

    def _connect(self) -> Connection | None:
        """The next connection; None if there will be none."""
        raise NotImplementedError

    def _begin(self) -> int:
        """A connection takes the place of the last one; its number. The caller holds the lock."""
        if self._number:
            self._break(self._number, "another took its place")
            self._ledger.reconnect()
        self._number += 1
        self._greeted_s = float("inf")
        return self._number

    def _note_break(self, number: int, detail: str) -> None:
        """Connection `number` has ended."""
        with self._changed:
            self._break(number, detail)

    def _break(self, number: int, detail: str) -> None:
        if number <= self._last_broken:
            return
        self._last_broken = number
        now_s = time.monotonic()
        progress = (self._ledger.num_received, self._ledger.num_acknowledged)
        # One that breaks again before anything came through is the same trouble as before.
        is_idle = self._greeted_s <= now_s and self._ledger.is_idle
        lasted_s = now_s - self._greeted_s
        if progress != self._progress or is_idle or lasted_s > self._resume_s:
            self._progress = progress
            self._broken_since_s, self._detail = now_s, detail
        self._wake_writer()

    def _left_s(self) -> float:
        """Seconds that are left to take the stream up again. The caller holds the lock."""
        if self._is_over:
            return 0.0
        return self._broken_since_s + self._resume_s - time.monotonic()

    def _loss(self, final_detail: str = "") -> PeerLost:
        with self._changed:
            detail = self.refusal or self._detail or final_detail
            text = f"connection to {self.peer} lost" + f": {detail}" * bool(detail)
            if final_detail not in ("", detail):
                text += f"; then: {final_detail}"
            elif not (final_detail or self._is_over) and self._resume_s:
                tried_s = time.monotonic() - self._broken_since_s
                text += f"; not taken up again in {tried_s:.1f} s"
        return PeerLost(text)


@final
class DialledStream(Stream):
    """The end that connects.

    Args:
      dial: opens a connection, given the stream, what goes out over it, and whether it is the
        first; returns what comes in, and what cuts it. Raises `Broken`.
    """

    def __init__(
        self,
        peer: str,
        metadata: Mapping[str, str],
        outgoing: Outgoing | None,
        *,
        resume_s: float,
        dial: Dial,
    ) -> None:
        super().__init__(peer, metadata, outgoing, resume_s=resume_s)
        self._dial = dial
        self.is_known = False  # The peer has been heard: it has accepted the stream.

    def _connect(self) -> Connection | None:
        with self._changed:
            self.is_known |= self._greeted_s != float("inf")
            if self._number and self._left_s() > 0.0 and self._greeted_s == float("inf"):
                self._changed.wait(_PAUSE_S)
            if self._is_over or (self._number and self._left_s() <= 0.0):
                return None
            is_first = not self._number
            number = self._begin()
        messages, cut = self._dial(self, self.write(number), is_first)
        with self._changed:
            self._cut = cut
            is_over = self._is_over or self._last_broken >= number
        if is_over:
            cut()
        return Connection(number, messages)

    def _end(self) -> None:
        super()._end()
        with self._changed:
            cut = self._cut
        cut()


@final
class AcceptedStream(Stream):
    """The end to which the other one connects."""

    def __init__(self, peer: str, metadata: Mapping[str, str], *, resume_s: float) -> None:
        super().__init__(peer, metadata, resume_s=resume_s)
        self._heard = 0  # The number of the connection that the reading thread has.
        self._messages: Incoming

    def attach(self, messages: Incoming, cut: Callable[[], object]) -> int:
        """The other end has connected, for the first time or again; the connection's number."""
        with self._changed:
            number, last_cut = self._begin(), self._cut
            self._messages, self._cut = messages, cut
            self._changed.notify_all()
        last_cut()
        return number

    def detach(self, number: int) -> None:
        """Connection `number` is no more."""
        self._note_break(number, "")

    def _connect(self) -> Connection | None:
        with self._changed:
            while self._number == self._heard:
                if (left_s := self._left_s()) <= 0.0:
                    return None
                self._changed.wait(left_s)
            self._heard = self._number
            return Connection(self._number, self._messages)
