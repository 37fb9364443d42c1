"""Parts waiting for one stream: joined into frames as it takes them, within the peer's credit.

Nobody waits to put something here; the stream's writer waits for parts and for credit. Small
parts that are waiting together leave in one frame.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import final

from poseidon_tf.wire.frames import Buffer, FrameHeader, Part, encode

# Parts share a frame up to here; a larger part travels alone.
FRAME_BYTES = 64 * 1024


@final
class FrameQueue:
    """An `Outgoing` of parts.

    Args:
      window_bytes: payload that may be under way before the peer gives credit back; None for a
        direction in which nothing is held back. One part may always leave when nothing else is
        under way, however large it is.
      on_taken: called with (key, step) of each part that the stream's writer has taken.
    """

    def __init__(
        self,
        *,
        window_bytes: int | None = None,
        on_taken: Callable[[int, int], None] | None = None,
    ) -> None:
        self._on_taken = on_taken
        self._window_bytes = window_bytes
        self._in_flight_bytes = 0
        self._parts: deque[tuple[Part, Buffer]] = deque()
        self._messages: deque[bytes] = deque()
        self._last_message = b""
        self._credit = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, message: bytes) -> None:
        """Add a finished frame; it overtakes waiting parts."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def put_parts(self, parts: list[tuple[Part, Buffer]]) -> None:
        """Add parts; their payloads must not change until they have left."""
        with self._changed:
            if not (self._closed or self._last_message):
                self._parts.extend(parts)
                self._changed.notify()

    def give_credit(self, num_bytes: int) -> None:
        """Tell the peer, with the next frame, that it may send `num_bytes` more."""
        with self._changed:
            self._credit += num_bytes
            self._changed.notify()

    def take_credit(self, num_bytes: int) -> None:
        """The peer allows `num_bytes` more."""
        with self._changed:
            self._in_flight_bytes -= num_bytes
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

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not (self._messages or self._credit or self._admitted() or self._is_over()):
                    self._changed.wait()
                if self._messages:
                    message, parts, credit = self._messages.popleft(), [], 0
                else:
                    message, parts = b"", self._next_parts()
                    credit, self._credit = self._credit, 0
                if not (message or parts or credit):
                    break
            # Joined outside the lock: whoever puts parts does not wait for the copy.
            if self._on_taken is not None:
                for part, _ in parts:
                    self._on_taken(part.key, part.step)
            yield message or encode(
                FrameHeader(parts=[part for part, _ in parts], credit=credit),
                [payload for _, payload in parts],
            )
        if self._last_message and not self._parts:
            yield self._last_message

    def _is_over(self) -> bool:
        """Whether the iteration ends once nothing more may leave."""
        return self._closed or bool(self._last_message and not self._parts)

    def _admitted(self) -> bool:
        """Whether the first waiting part may leave now."""
        if not self._parts:
            return False
        if self._window_bytes is None or self._in_flight_bytes == 0:
            return True
        return self._in_flight_bytes + len(self._parts[0][1]) <= self._window_bytes

    def _next_parts(self) -> list[tuple[Part, Buffer]]:
        taken: list[tuple[Part, Buffer]] = []
        num_bytes = 0
        while self._admitted():
            size = len(self._parts[0][1])
            if taken and num_bytes + size > FRAME_BYTES:
                break
            taken.append(self._parts.popleft())
            num_bytes += size
            if self._window_bytes is not None:
                self._in_flight_bytes += size
        return taken
