"""What a transport promises: who receives, where outgoing messages come from, what is counted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, final

from poseidon_tf.wire.frames import Message

# The longest message that either side accepts. Whoever has more to say cuts it.
MAX_MESSAGE_BYTES = 80 * 1024 * 1024
# gRPC's five bytes before each message: a flag and the length.
GRPC_PREFIX_BYTES = 5
# A lane's: the lengths of the message's head and of the rest.
LANE_PREFIX_BYTES = 8


def shortened(text: str, *, most_chars: int) -> str:
    """`text`, or its beginning where it has more than `most_chars` characters."""
    return text if len(text) <= most_chars else text[: most_chars - 4] + " ..."


Room: TypeAlias = Callable[[bytes, int], memoryview | None]
"""Where the payload of a message belongs, by its head and the payload's bytes; None: anywhere. What
is there when a connection breaks is not the payload yet: it comes again."""


class Receiver(Protocol):
    """Hears one stream. Called by one thread per stream, in the order of the messages."""

    def on_message(self, message: Any) -> None:
        """A message has arrived; an exception ends the stream and is given to `on_closed`.

        Args:
          message: bytes; of a stream that may have a lane, also `Segments` with one payload.
        """

    def on_closed(self, error: Exception | None) -> None:
        """The stream has ended, once; `error` is None if the peer closed it properly.

        Everything that the peer has sent came before None. A connection that breaks is no end, as
        long as another takes its place.
        """


class Outgoing(Protocol):
    """Where a stream's writer takes its messages from; iteration blocks until there is one."""

    def put(self, message: Message) -> None:
        """Add a finished message; never blocks."""

    def close(self) -> None:
        """End the iteration after what is already there."""

    def __iter__(self) -> Iterator[Message]: ...


@final
class MessageQueue:
    """An `Outgoing` that sends finished messages in the order in which they were put.

    What is put after `close` is dropped: a peer that goes on asking costs no memory.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._is_closed = False

    def put(self, message: Message) -> None:
        if not self._is_closed:
            self._queue.put(message)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)

    def __iter__(self) -> Iterator[Message]:
        while (message := self._queue.get()) is not None:
            yield message


@final
@dataclass(slots=True)
class Traffic:
    """Bytes and messages of one stream, counted where they enter and leave the transport.

    What the transport itself says, and what it says again after a connection broke, counts too.

    Attributes:
      has_lane: whether its last connection has a lane.
      num_connections: it has had, one after the other.
    """

    sent_bytes: int = 0
    sent_messages: int = 0
    received_bytes: int = 0
    received_messages: int = 0
    has_lane: bool = False
    num_connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_sent(self, num_bytes: int) -> None:
        with self._lock:
            self.sent_bytes += num_bytes
            self.sent_messages += 1

    def count_received(self, num_bytes: int) -> None:
        with self._lock:
            self.received_bytes += num_bytes
            self.received_messages += 1
