"""Frames as they arrive, for tests that hand them over without a connection."""

from __future__ import annotations

from poseidon_tf.wire.frames import Message, Segments


def carried(message: Message, *, by_lane: bool) -> Message:
    """`message` as its receiver gets it: in one piece from gRPC, head and payload from a lane."""
    if not isinstance(message, Segments):
        return message
    if not by_lane:
        return message.joined()
    return Segments(message.head, [memoryview(bytearray(message.payload()))])
