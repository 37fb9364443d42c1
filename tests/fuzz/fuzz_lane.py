"""What holds for a lane whatever bytes come over it."""

from __future__ import annotations

import socket

from poseidon_tf.transport.base import MAX_MESSAGE_BYTES, Traffic
from poseidon_tf.transport.lanes import Lane
from poseidon_tf.transport.streams import Broken
from poseidon_tf.wire.frames import Message, Segments


def lane(data: bytes) -> None:
    """The messages are those that are whole in `data`; then it ends, or has broken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    with there:
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        traffic = Traffic()
        heard = b""
        is_broken = False
        try:
            for message in Lane(here, traffic=traffic, keepalive_s=30.0).receive():
                heard += _as_sent(message)
        except Broken:
            is_broken = True
    assert data.startswith(heard) and traffic.received_bytes == len(heard)
    rest = data[len(heard) :]
    assert is_broken == bool(rest), f"{len(rest)} bytes are left"
    if len(rest) >= 8:
        num_bytes = sum(int.from_bytes(rest[at : at + 4], "little") for at in (0, 4))
        assert num_bytes > min(MAX_MESSAGE_BYTES, len(rest) - 8), "a whole message was not heard"


def _as_sent(message: Message) -> bytes:
    if not isinstance(message, Segments):
        return len(message).to_bytes(4, "little") + bytes(4) + message
    lengths = [len(message.head), len(message) - len(message.head)]
    return b"".join(each.to_bytes(4, "little") for each in lengths) + message.joined()


TARGETS = {"lane": lane}
# Whole messages, of both forms; what of them is changed is the tests' and the fuzzer's to find.
SEEDS = {
    "lane": [
        _as_sent(b"\x00a" + bytes(8)) + _as_sent(Segments(b"\x0ahead", [b"payload" * 40])),
        _as_sent(b"") + _as_sent(b"x" * 300) + _as_sent(Segments(b"", [b"y"])),
    ]
}
