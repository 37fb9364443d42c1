"""Parts waiting for one stream: joined into frames as it takes them, within the peer's credit.

Nobody waits to put something here; the stream's writer waits for parts and for credit. Small
parts that are waiting together leave in one frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames
from poseidon_tf.wire.frames import MAX_PARTS, Buffer, FrameHeader, Message, Part

# Parts share a frame up to here; a larger part travels alone.
FRAME_BYTES = 256 * 1024
# The same where the bytes are placed in shared memory and the frame only says so.
PLACED_FRAME_BYTES = 1024 * 1024


@final
class FrameQueue:
    """An `Outgoing` of parts.

    Args:
      window_bytes: payload that may be under way before the peer gives credit back; None for a
        direction in which nothing is held back. A part may always leave when no more than
        `credit_step` is under way, however large it is.
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
        self._parts: deque[tuple[Part, Buffer] | Message] = deque()
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

    def put_parts(self, parts: Sequence[tuple[Part, Buffer]]) -> None:
        """Add parts; their payloads must not change until the peer has them."""
        with self._changed:
            if not (self._closed or self._last_message):
                self._parts.extend(parts)
                self._changed.notify()

    def put_frame(self, message: Message) -> None:
        """Add a finished frame in its turn, such as one that goes to many peers alike."""
        with self._changed:
            if not (self._closed or self._last_message):
                self._parts.append(message)
                self._changed.notify()

    def give_credit(self, num_bytes: int) -> None:
        """Tell the peer, with the next frame, that it may send `num_bytes` more."""
        with self._changed:
            self._credit += num_bytes
            if self._is_credit_due():
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
            if self._parts:
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
                elif self._parts and not isinstance(frame := self._parts[0], tuple):
                    message = frame
                    self._parts.popleft()
                else:
                    parts = self._next_parts()
                    credit, self._credit = self._credit, 0
                if not (message or parts or credit):
                    break
            # Made outside the lock: whoever puts parts does not wait for a copy.
            if self._on_taken is not None:
                for part, _ in parts:
                    self._on_taken(part.key, part.step)
            yield message or self._frame(parts, credit)
        if self._last_message and not self._parts:
            yield self._last_message

    def _has_next(self) -> bool:
        return bool(self._messages or self._is_credit_due() or self._admitted() or self._is_over())

    def _is_over(self) -> bool:
        """Whether the iteration ends once nothing more may leave."""
        return self._closed or bool(self._last_message and not self._parts)

    def _is_credit_due(self) -> bool:
        return self._credit > self._credit_step

    def _admitted(self) -> bool:
        """Whether the first waiting part may leave now."""
        if not self._parts:
            return False
        if not isinstance(first := self._parts[0], tuple):
            return True
        part, payload = first
        if part.place or self._window_bytes is None or self._in_flight_bytes <= self._credit_step:
            return True
        return self._in_flight_bytes + len(payload) <= self._window_bytes

    def _next_parts(self) -> list[tuple[Part, Buffer]]:
        taken: list[tuple[Part, Buffer]] = []
        share = 0.0  # Of a full frame.
        while self._admitted() and isinstance(entry := self._parts[0], tuple):
            part, payload = entry
            share += len(payload) / (PLACED_FRAME_BYTES if part.place else FRAME_BYTES)
            if taken and (share > 1.0 or len(taken) == MAX_PARTS):
                break
            taken.append(entry)
            self._parts.popleft()
            if self._window_bytes is not None and not part.place:
                self._in_flight_bytes += len(payload)
        return taken

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
