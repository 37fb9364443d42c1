"""TCP connections beside a stream's gRPC call: messages from memory to memory, without a copy.

A call that wants a lane is told of a port and a one-time word. Who connects to that port and says
the word has the lane: `lane_port` is who listens there, `carriers` says when. On a lane each
message is two lengths (little-endian, four bytes each: of its head and of its payload), the head,
and the payload. A message that lies in one place is all head.

Whether the other end is alive is asked through the call: a kernel acknowledges TCP for a process
that is stopped.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import final

import numpy as np

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.base import LANE_PREFIX_BYTES, MAX_MESSAGE_BYTES, Room, Traffic
from poseidon_tf.transport.streams import Broken
from poseidon_tf.wire.frames import Message, Segments

# For somebody to connect, to say the word, and to be answered.
PATIENCE_S = 5.0
WORD_BYTES = 32
# What whoever listens answers to the right word.
WELCOME = b"poseidon lane 1\n"
_PREFIX = struct.Struct("<II")
assert _PREFIX.size == LANE_PREFIX_BYTES
# What the kernel may hold that it has not sent yet: what is more urgent cannot overtake it. It is
# 10 ms of a link of 100 Mbit/s.
UNSENT_BYTES = 128 * 1024
# Read ahead: several small messages for one system call. What is longer is read into its place.
_AHEAD_BYTES = 16 * 1024


@final
class Lane:
    """One end of a lane. One thread sends, another one receives.

    Args:
      connection: on which the word has been said and answered.
      keepalive_s: how long what was sent may go unacknowledged.
      room: asked where payloads belong; by default into memory of their own.

    Raises:
      Broken: it has been cut already.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        traffic: Traffic,
        keepalive_s: float,
        room: Room = lambda head, num_bytes: None,
    ) -> None:
        self._socket, self._traffic, self._room = connection, traffic, room
        try:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):  # Less is overtaken then; nothing is lost.
                _set_where_known(connection, "TCP_NOTSENT_LOWAT", UNSENT_BYTES)
            _keep_alive(connection, keepalive_s)
        except OSError as failure:
            connection.close()
            raise Broken(f"its lane broke: {failure}") from failure
        traffic.has_lane = True
        self._ahead = memoryview(bytearray(_AHEAD_BYTES))
        self._begin = self._end = 0  # Of what has been read ahead.

    def send(self, message: Message) -> None:
        """Send `message`; blocks while the other end takes nothing. Raises OSError."""
        self._traffic.count_sent(len(message) + LANE_PREFIX_BYTES)
        if isinstance(message, Segments):
            head, payloads = message.head, message.payloads
        else:
            head, payloads = message, ()
        prefix = _PREFIX.pack(len(head), len(message) - len(head))
        places = [memoryview(prefix + head if len(head) <= _AHEAD_BYTES else prefix)]
        if len(head) > _AHEAD_BYTES:
            places.append(memoryview(head))
        places += map(memoryview, payloads)
        while places:
            num_sent = self._socket.sendmsg(places)
            while places and num_sent >= len(places[0]):
                num_sent -= len(places.pop(0))
            if num_sent:
                places[0] = places[0][num_sent:]

    def end(self) -> None:
        """Nothing more is sent."""
        with contextlib.suppress(OSError):  # It is cut already.
            self._socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End it, both ways; whoever sends or receives hears of it."""
        with contextlib.suppress(OSError):  # The other end was faster.
            self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self) -> Iterator[Message]:
        """The messages in order, until the other end sends nothing more. Raises Broken."""
        try:
            while (prefix := self._take(LANE_PREFIX_BYTES, may_end=True)) is not None:
                head_bytes, payload_bytes = _PREFIX.unpack(prefix)
                if (num_bytes := head_bytes + payload_bytes) > MAX_MESSAGE_BYTES:
                    told = f"a message of {num_bytes} bytes, more than {MAX_MESSAGE_BYTES}"
                    raise Broken(told, refusal=ProtocolError(told))
                head = bytes(self._take(head_bytes) or b"")
                message: Message = head
                if payload_bytes:
                    place = self._room(head, payload_bytes)
                    if place is None:
                        place = np.empty(payload_bytes, np.uint8).data
                    self._take_into(place)
                    message = Segments(head, (place,))
                self._traffic.count_received(num_bytes + LANE_PREFIX_BYTES)
                yield message
        except OSError as failure:
            raise Broken(f"its lane broke: {failure}") from failure
        finally:
            self.cut()
            self._socket.close()

    def _take(self, num_bytes: int, *, may_end: bool = False) -> memoryview | bytearray | None:
        """The next bytes, valid until the next call; None if nothing more comes."""
        if num_bytes > _AHEAD_BYTES:
            taken = bytearray(num_bytes)
            self._take_into(memoryview(taken))
            return taken
        if self._begin + num_bytes > _AHEAD_BYTES:
            rest = bytes(self._ahead[self._begin : self._end])
            self._ahead[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        while self._end - self._begin < num_bytes:
            if not (num_read := self._socket.recv_into(self._ahead[self._end :])):
                if may_end and self._begin == self._end:
                    return None
                raise Broken("its lane ended within a message")
            self._end += num_read
        begin, self._begin = self._begin, self._begin + num_bytes
        return self._ahead[begin : self._begin]

    def _take_into(self, place: memoryview) -> None:
        num_ahead = min(self._end - self._begin, len(place))
        place[:num_ahead] = self._ahead[self._begin : self._begin + num_ahead]
        self._begin += num_ahead
        place = place[num_ahead:]
        while place:
            num_read = self._socket.recv_into(place, len(place), socket.MSG_WAITALL)
            if not num_read:
                raise Broken("its lane ended within a message")
            place = place[num_read:]


def connect(host: str, place: str) -> socket.socket:
    """The connection to the lane at `place` of the server on `host`.

    Raises:
      OSError: nobody is there in `PATIENCE_S`, or it is somebody else.
    """
    port, _, word = place.partition(":")
    try:
        said = bytes.fromhex(word)
        connection = socket.create_connection((host, int(port)), PATIENCE_S)
    except (ValueError, OverflowError) as failure:
        raise OSError(f"{place[:80]!r} is no lane") from failure
    try:
        connection.sendall(said)
        heard = b""
        while len(heard) < len(WELCOME):
            more = connection.recv(len(WELCOME) - len(heard))
            if not more:
                raise OSError("it was closed before it began")
            heard += more
        if heard != WELCOME:
            raise OSError("somebody else is there")
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_alive(connection: socket.socket, keepalive_s: float) -> None:
    """Whatever forgets idle connections on the way is kept from it; a dead link ends the lane."""
    sixth_s = max(1, int(keepalive_s / 6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", sixth_s),
        ("TCP_KEEPINTVL", sixth_s),
        ("TCP_KEEPCNT", 5),
        ("TCP_USER_TIMEOUT", max(1, int(keepalive_s * 1000))),
    ):
        _set_where_known(connection, name, value)


def _set_where_known(connection: socket.socket, name: str, value: int) -> None:
    """Set an option of TCP; not every system has them all."""
    if (option := getattr(socket, name, None)) is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
