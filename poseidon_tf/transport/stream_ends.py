"""The two ends of a stream: the one that makes its connections, and the one that awaits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import final

from poseidon_tf.transport.base import Outgoing
from poseidon_tf.transport.streams import Connection, Stream

_PAUSE_S = 0.05  # Between two attempts to connect.
Dial = Callable[
    ["DialledStream", Iterator[bytes], bool], tuple[Iterator[bytes], Callable[[], object]]
]


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
        self._messages: Iterator[bytes] = iter(())

    def attach(self, messages: Iterator[bytes], cut: Callable[[], object]) -> int:
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
