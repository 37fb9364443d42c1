"""Frames to bytes and back: a protobuf header joined to raw tensor bytes with one copy.

The bytes are exactly those of the message `Frame`; they are written by hand because protobuf
would copy the payload once more on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.frame_pb2 import FrameHeader, Leave, Part

# Field number << 3 | wire type 2 (length-delimited).
_HEADER_TAG = 1 << 3 | 2
_PAYLOAD_TAG = 2 << 3 | 2
Buffer = bytes | memoryview

# Parts of one frame. Whoever has more to send makes another frame.
MAX_PARTS = 4096
# Its header, looked at before it is parsed: a parsed part takes ten times its bytes and more. A
# part has at most 64 of them; the rest is for a reason.
MAX_HEADER_BYTES = 64 * MAX_PARTS + 64 * 1024
# A reason is cut to this many characters, which are at most four bytes each.
MAX_REASON_CHARS = 8 * 1024


def encode(header: FrameHeader, payloads: Iterable[Buffer] = ()) -> bytes:
    """The wire bytes of a frame; `payloads` are those of the parts without a place, in order."""
    payloads = list(payloads)
    head = header.SerializeToString()
    num_bytes = sum(len(payload) for payload in payloads)
    prefix = bytes((_HEADER_TAG,)) + _varint(len(head)) + head
    if num_bytes:
        prefix += bytes((_PAYLOAD_TAG,)) + _varint(num_bytes)
    return b"".join((prefix, *payloads))


def decode(message: bytes) -> tuple[FrameHeader, list[memoryview]]:
    """The header and, per part, a read-only view into `message`; empty if it has a place.

    Raises:
      ProtocolError: the bytes are not a frame, or the parts' lengths are not the payload's.
    """
    view = memoryview(message)
    try:
        head, rest = _field(view, _HEADER_TAG)
        if len(head) > MAX_HEADER_BYTES:
            raise ProtocolError(f"a frame whose header has {len(head)} bytes")
        header = FrameHeader.FromString(bytes(head))
        payload = memoryview(b"")
        if len(rest):
            payload, rest = _field(rest, _PAYLOAD_TAG)
    except (DecodeError, IndexError) as failure:
        raise ProtocolError(f"{len(message)} bytes that are not a frame") from failure
    if len(header.parts) > MAX_PARTS:
        raise ProtocolError(
            f"a frame of {len(header.parts)} parts; at most {MAX_PARTS} are allowed"
        )
    lengths = [0 if part.place else part.length for part in header.parts]
    if len(rest) or sum(lengths) != len(payload):
        raise ProtocolError(
            f"a frame whose {len(header.parts)} parts do not add up to its {len(payload)} bytes"
        )
    views, begin = [], 0
    for length in lengths:
        views.append(payload[begin : begin + length])
        begin += length
    return header, views


def refusal(reason: str) -> bytes:
    """A frame that says why its sender gives up."""
    return encode(FrameHeader(refusal=reason[:MAX_REASON_CHARS]))


def goodbye(last_step: int) -> bytes:
    """A frame after which its sender says nothing more."""
    return encode(FrameHeader(goodbye=Leave(last_step=last_step)))


def cut(payload: memoryview, *, chunk_bytes: int) -> Sequence[tuple[int, memoryview]]:
    """`payload` in pieces of at most `chunk_bytes`, each with its offset in bytes."""
    return [
        (begin, payload[begin : begin + chunk_bytes])
        for begin in range(0, max(len(payload), 1), chunk_bytes)
    ]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(view: memoryview, tag: int) -> tuple[memoryview, memoryview]:
    """The content of a length-delimited field with this tag, and what follows it."""
    if view[0] != tag:
        raise DecodeError("another field was expected")
    length, shift, position = 0, 0, 1
    while True:
        byte = view[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 35:
            raise DecodeError("a length that does not end")
    if position + length > len(view):
        raise DecodeError("a length beyond the end")
    return view[position : position + length], view[position + length :]


__all__ = [
    "Buffer",
    "FrameHeader",
    "Leave",
    "Part",
    "cut",
    "decode",
    "encode",
    "goodbye",
    "refusal",
]
