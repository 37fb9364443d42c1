"""Parts waiting for one stream: joined into frames as it takes them, within the peer's credit.

Nobody waits to put something here; the stream's writer waits for parts and for credit. Small
parts that are waiting together leave in one frame.

What waits leaves in this order: first what has priority 0, then by step, then by priority, the
least first; and what is equal in the order in which it came. So a key whose priority never changes
keeps the order of its steps, and no later step keeps an earlier one waiting. What has left stays
where it is: frames are numbered, and sent again if need be, in the order in which they left.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast, final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames
from poseidon_tf.wire.frames import MAX_PARTS, Buffer, FrameHeader, Message, Part

# Parts share a frame up to here; a larger part travels alone.
FRAME_BYTES = 256 * 1024
# The same where the bytes are placed in shared memory and the frame only says so.
PLACED_FRAME_BYTES = 1024 * 1024


class _Entry(NamedTuple):
    """What waits: a part and its bytes, or without a part a finished frame.

    Attributes:
      put_before: bytes that need credit and were put before it.
    """

    part: Part | None
    content: Buffer | Message
    put_before: int


@final
class FrameQueue:
    """An `Outgoing` of parts.

    Args:
      window_bytes: payload that may be under way before the peer gives credit back; None for a
        direction in which nothing is held back. A part may always leave when no more than
        `credit_step` is under way, however large it is. So may the oldest that waits when no more
        than that was put before it and is not given back: what overtook it cannot stop it.
      credit_step: credit below this many bytes may be kept back, here for the peer and by the
        peer for this side: so not every part costs a frame of its own in return.
      memory: where the bytes of parts that have a place go; without bytes they are there.
      on_taken: called with (key, step) of each part that the stream's writer has taken.
    """

    def __init__(
        self,
        *,
        window_bytes: int | None = None,
        credit_step: int = 0,
        memory: SharedMemory | None = None,
        on_taken: Callable[[int, int], None] | None = None,
    ) -> None:
        self._on_taken = on_taken
        self._window_bytes = window_bytes
        self._credit_step = credit_step
        self._memory = memory
        self._in_flight_bytes = 0
        self._waiting: dict[int, _Entry] = {}  # By number, the oldest first.
        self._turns: list[tuple[int, int, int]] = []  # A heap: step, priority, number.
        self._put_bytes = self._credited_bytes = 0
        self._numbers = itertools.count()
        self._messages: deque[Message] = deque()
        self._last_message = b""
        self._credit = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, message: Message) -> None:
        """Add a finished frame; it overtakes waiting parts."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def put_parts(self, parts: Sequence[tuple[Part, Buffer]], *, priority: int = 0) -> None:
        """Add parts; their payloads must not change until the peer has them."""
        with self._changed:
            for part, payload in parts:
                self._put(part.step, priority, part, payload)
            self._changed.notify()

    def put_frame(self, message: Message, *, step: int = 0, priority: int = 0) -> None:
        """Add a finished frame in its turn, such as one that goes to many peers alike.

        Args:
          step: of its parts.
        """
        with self._changed:
            self._put(step, priority, None, message)
            self._changed.notify()

    def _put(self, step: int, priority: int, part: Part | None, content: Buffer | Message) -> None:
        if self._closed or self._last_message:
            return
        number = next(self._numbers)
        self._waiting[number] = entry = _Entry(part, content, self._put_bytes)
        heapq.heappush(self._turns, (step if priority else -1, priority, number))
        self._put_bytes += self._needed_credit(entry)

    def give_credit(self, num_bytes: int) -> None:
        """Tell the peer, with the next frame, that it may send `num_bytes` more."""
        self.put_all((), credit=num_bytes)

    def put_all(self, parts: Iterable[tuple[Part, Buffer, int]], *, credit: int) -> None:
        """Add parts, each with its priority, and give credit: one wake for what one frame led to.

        Their payloads must not change until the peer has them.
        """
        with self._changed:
            is_due = False
            for part, payload, priority in parts:
                self._put(part.step, priority, part, payload)
                is_due = True
            self._credit += credit
            if is_due or self._is_credit_due():
                self._changed.notify()

    def take_credit(self, num_bytes: int) -> None:
        """The peer allows `num_bytes` more.

        Raises:
          ProtocolError: that is more than is under way; nothing has changed.
        """
        with self._changed:
            if num_bytes > self._in_flight_bytes:
                raise ProtocolError(
                    f"credit for {num_bytes} bytes, of which {self._in_flight_bytes} are under way"
                )
            self._in_flight_bytes -= num_bytes
            self._credited_bytes += num_bytes
            if self._waiting:
                self._changed.notify()

    def finish(self, last_message: bytes) -> None:
        """Send `last_message` after all parts, then end."""
        with self._changed:
            self._last_message = last_message
            self._changed.notify()

    def close(self) -> None:
        """End after what has been put; parts that credit holds back are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def is_ready(self) -> bool:
        """Whether the iteration would go on at once, to a frame or to its end."""
        with self._changed:
            return self._has_next()

    def __iter__(self) -> Iterator[Message]:
        while True:
            with self._changed:
                while not self._has_next():
                    self._changed.wait()
                message: Message = b""
                parts: list[tuple[Part, Buffer]] = []
                credit = 0
                if self._messages:
                    message = self._messages.popleft()
                else:
                    message, parts = self._next()
                    if not message:
                        credit, self._credit = self._credit, 0
                if not (message or parts or credit):
                    break
            # Made outside the lock: whoever puts parts does not wait for a copy.
            if self._on_taken is not None:
                for part, _ in parts:
                    self._on_taken(part.key, part.step)
            yield message or self._frame(parts, credit)
        if self._last_message and not self._waiting:
            yield self._last_message

    def _has_next(self) -> bool:
        if self._messages or self._is_credit_due() or self._is_over():
            return True
        return self._next_number() is not None

    def _is_over(self) -> bool:
        """Whether the iteration ends once nothing more may leave."""
        return self._closed or bool(self._last_message and not self._waiting)

    def _is_credit_due(self) -> bool:
        return self._credit > self._credit_step

    def _next_number(self) -> int | None:
        """Of what may leave now: the first in turn, or the oldest that it must not stop."""
        while self._turns and self._turns[0][2] not in self._waiting:
            heapq.heappop(self._turns)
        if not self._turns:
            return None
        first = self._turns[0][2]
        if (needed := self._needed_credit(self._waiting[first])) == 0:
            return first
        under_way = self._in_flight_bytes
        assert self._window_bytes is not None
        if under_way <= self._credit_step or under_way + needed <= self._window_bytes:
            return first
        number, oldest = next(iter(self._waiting.items()))
        owed_before = oldest.put_before - self._credited_bytes
        return number if owed_before <= self._credit_step else None

    def _needed_credit(self, entry: _Entry) -> int:
        if self._window_bytes is None or entry.part is None or entry.part.place:
            return 0
        return len(entry.content)

    def _next(self) -> tuple[Message, list[tuple[Part, Buffer]]]:
        """A finished frame, or the parts of the next one; nothing if nothing may leave."""
        parts: list[tuple[Part, Buffer]] = []
        share = 0.0  # Of a full frame.
        while (number := self._next_number()) is not None:
            entry = self._waiting[number]
            if entry.part is None:
                if not parts:
                    del self._waiting[number]
                    return cast("Message", entry.content), []
                break
            size = PLACED_FRAME_BYTES if entry.part.place else FRAME_BYTES
            share += len(entry.content) / size
            if parts and (share > 1.0 or len(parts) == MAX_PARTS):
                break
            parts.append((entry.part, cast("Buffer", entry.content)))
            self._in_flight_bytes += self._needed_credit(entry)
            del self._waiting[number]
        return b"", parts

    def _frame(self, parts: list[tuple[Part, Buffer]], credit: int) -> Message:
        payloads = []
        for part, payload in parts:
            if not part.place:
                payloads.append(payload)
            elif payload:
                assert self._memory is not None, "a part with a place, and no shared memory"
                self._memory.write(part.place - 1, payload)
        header = FrameHeader(parts=[part for part, _ in parts], credit=credit)
        return frames.message(header, payloads)
