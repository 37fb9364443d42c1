"""Which messages of one stream the peer has, and which it must be sent again: pure bookkeeping.

A stream outlives its connections. Each end keeps what it has sent until the peer says that it has
it, and counts what has come. Every connection begins with a greeting from both ends: how many
messages have come so far. From there the other end sends on, so that each message is heard once
and in order, wherever the last connection broke.

What the two ends say to each other here begins with a zero byte, with which no protobuf message
and no frame begins. A payload that does gets two bytes more.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.frames import Message

_MARK = 0
_ACKNOWLEDGE = b"\x00a"  # And how many messages have come since the stream began.
_END = b"\x00e"  # Nothing follows; numbered and kept like a payload.
_ESCAPE = b"\x00\x00"  # The rest is a payload.
_COUNT = struct.Struct("<Q")
# What may come before the peer is told of it; the peer keeps as much.
ACKNOWLEDGE_MESSAGES = 64
ACKNOWLEDGE_BYTES = 4 * 1024 * 1024


@final
class Ledger:
    """One end of one stream, over all its connections. The first begins at once.

    Attributes:
      num_received: messages that have come, over all connections.
      num_acknowledged: own messages that the peer has, as far as is known.
      is_resumed: whether it is known where to go on on this connection.
      has_ended: nothing is added any more.
      peer_has_ended: everything from the peer has come.
      must_tell: the peer must hear how much has come.
    """

    def __init__(self) -> None:
        self.num_received = self.num_acknowledged = 0
        self.is_resumed = True
        self.has_ended = self.peer_has_ended = False
        self._unacknowledged: deque[Message] = deque()
        self._unsent: deque[Message] = deque()  # On this connection; the last of the above.
        self._num_sent = 0  # Before this connection; the peer cannot have more.
        self.must_tell = True
        self._untold_messages = self._untold_bytes = 0

    def reconnect(self) -> None:
        """A new connection; what was under way on the last one may be lost."""
        if self.is_resumed:
            self._num_sent = self._sent()
        self._unsent.clear()
        self.must_tell = True
        self.is_resumed = False

    def add(self, payload: Message) -> None:
        """One message to be sent after all others."""
        if isinstance(payload, bytes) and payload and payload[0] == _MARK:
            payload = _ESCAPE + payload
        self._add(payload)

    def end(self) -> None:
        """Nothing is to be sent after what has been added."""
        self.has_ended = True
        self._add(_END)

    def _add(self, message: Message) -> None:
        self._unacknowledged.append(message)
        if self.is_resumed:
            self._unsent.append(message)

    def take(self) -> Message | None:
        """What to send next on this connection; None if there is nothing."""
        if self.must_tell:
            self.must_tell = False
            self._untold_messages = self._untold_bytes = 0
            return _ACKNOWLEDGE + _COUNT.pack(self.num_received)
        return self._unsent.popleft() if self._unsent else None

    def hear(self, message: Message) -> Message | None:
        """The payload of what has come on this connection; None if it has none.

        Raises:
          ProtocolError: the peer says what it cannot say here. Nothing has changed.
        """
        payload: Message | None = message
        if isinstance(message, bytes) and message and message[0] == _MARK:
            if message.startswith(_ACKNOWLEDGE):
                self._acknowledge(message)
                return None
            if message != _END and not message.startswith(_ESCAPE):
                raise ProtocolError("neither a message nor a word about the stream")
            payload = None if message == _END else message[len(_ESCAPE) :]
        if self.peer_has_ended:
            raise ProtocolError("a message after the end of the stream")
        if not self.is_resumed:
            raise ProtocolError("a message before the greeting of its connection")
        self.peer_has_ended = payload is None
        self.num_received += 1
        self._untold_messages += 1
        self._untold_bytes += len(message)
        if (
            self._untold_messages >= ACKNOWLEDGE_MESSAGES
            or self._untold_bytes >= ACKNOWLEDGE_BYTES
            or self.peer_has_ended
        ):
            self.must_tell = True
        return payload

    def _acknowledge(self, message: bytes) -> None:
        if len(message) != len(_ACKNOWLEDGE) + _COUNT.size:
            raise ProtocolError("an acknowledgement that cannot be read")
        (count,) = _COUNT.unpack_from(message, len(_ACKNOWLEDGE))
        num_sent = self._sent() if self.is_resumed else self._num_sent
        if not self.num_acknowledged <= count <= num_sent:
            raise ProtocolError(
                f"an acknowledgement of {count} messages; {self.num_acknowledged} of {num_sent} "
                "had been acknowledged before"
            )
        for _ in range(count - self.num_acknowledged):
            self._unacknowledged.popleft()
        self.num_acknowledged = count
        if not self.is_resumed:
            self._unsent.extend(self._unacknowledged)
            self.is_resumed = True

    def _sent(self) -> int:
        return self.num_acknowledged + len(self._unacknowledged) - len(self._unsent)

    @property
    def is_idle(self) -> bool:
        """Whether the peer has all that was added."""
        return not self._unacknowledged

    @property
    def is_done(self) -> bool:
        """Whether both directions have ended, and both ends know it."""
        return self.has_ended and self.is_idle and self.peer_has_ended and not self.must_tell
