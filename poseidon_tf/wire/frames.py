"""Frames to bytes and back: a protobuf header joined to raw tensor bytes with one copy.

The bytes are exactly those of the message `Frame`; they are written by hand because protobuf
would copy the payload once more on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, final

from google.protobuf.message import DecodeError

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.frame_pb2 import FrameHeader, Leave, Part

# Field number << 3 | wire type 2 (length-delimited).
_HEADER_TAG = 1 << 3 | 2
_PAYLOAD_TAG = 2 << 3 | 2
Buffer = bytes | memoryview
# A frame of at most so many bytes is joined: a copy costs less than a list of places.
_JOINED_BYTES = 32 * 1024
# A frame of more parts is joined; a system call takes 1024 places at most.
_MAX_PLACES = 64

# Parts of one frame. Whoever has more to send makes another frame.
MAX_PARTS = 4096
# Its header, looked at before it is parsed: a parsed part takes ten times its bytes and more. A
# part has at most 64 of them; the rest is for a reason.
MAX_HEADER_BYTES = 64 * MAX_PARTS + 64 * 1024
# A reason is cut to this many characters, which are at most four bytes each.
MAX_REASON_CHARS = 8 * 1024


@final
class Segments:
    """A frame that lies in several places: its head here, its parts' bytes where they are.

    The parts' memory must not change until the peer has it. `len` is that of the whole.

    Attributes:
      head: everything before the payload's first byte.
      payloads: the rest, in order.
    """

    __slots__ = ("_joined", "_num_bytes", "head", "payloads")

    def __init__(self, head: bytes, payloads: Sequence[Buffer]) -> None:
        self.head, self.payloads = head, tuple(payloads)
        self._num_bytes = len(head) + sum(len(payload) for payload in payloads)
        self._joined: bytes | None = None

    def __len__(self) -> int:
        return self._num_bytes

    def payload(self) -> memoryview:
        """The payloads in one place; as they came over a lane they are."""
        (first, *others) = self.payloads
        return memoryview(b"".join(self.payloads) if others else first)

    def joined(self) -> bytes:
        """The same in one place; joined once, for however many streams."""
        if self._joined is None:
            self._joined = b"".join((self.head, *self.payloads))
        return self._joined


Message: TypeAlias = bytes | Segments


def encode(header: FrameHeader, payloads: Iterable[Buffer] = ()) -> bytes:
    """The wire bytes of a frame; `payloads` are those of the parts without a place, in order."""
    return segments(header, payloads).joined()


def message(header: FrameHeader, payloads: Iterable[Buffer] = ()) -> Message:
    """The same, left where it is if joining would cost more than it saves."""
    apart = segments(header, payloads)
    is_small = len(apart) <= _JOINED_BYTES or len(apart.payloads) > _MAX_PLACES
    return apart.joined() if is_small else apart


def segments(header: FrameHeader, payloads: Iterable[Buffer] = ()) -> Segments:
    """The same, where it is."""
    payloads = list(payloads)
    head = header.SerializeToString()
    num_bytes = sum(len(payload) for payload in payloads)
    prefix = bytes((_HEADER_TAG,)) + _varint(len(head)) + head
    if num_bytes:
        prefix += bytes((_PAYLOAD_TAG,)) + _varint(num_bytes)
    return Segments(prefix, payloads)


def decode(message: Message) -> tuple[FrameHeader, list[memoryview]]:
    """The header and, per part, a view into `message`; empty if it has a place.

    Raises:
      ProtocolError: the bytes are not a frame, or the parts' lengths are not the payload's.
    """
    view = memoryview(message.head if isinstance(message, Segments) else message)
    try:
        header, rest = _header(view)
        payload = memoryview(b"")
        if isinstance(message, Segments):
            payload = message.payload()
            begin, length = _opening(rest, _PAYLOAD_TAG)
            rest = rest[begin:]
            if length != len(payload):
                raise DecodeError("a length that is not the payload's")
        elif len(rest):
            payload, rest = _field(rest, _PAYLOAD_TAG)
    except (DecodeError, IndexError) as failure:
        raise ProtocolError(f"{len(message)} bytes that are not a frame") from failure
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


def decode_head(head: bytes) -> FrameHeader:
    """The header of a frame that lies in several places. Raises ProtocolError."""
    try:
        return _header(memoryview(head))[0]
    except (DecodeError, IndexError) as failure:
        raise ProtocolError(f"{len(head)} bytes that are not a frame's head") from failure


def _header(view: memoryview) -> tuple[FrameHeader, memoryview]:
    """The header with which `view` begins, and what follows it."""
    head, rest = _field(view, _HEADER_TAG)
    if len(head) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a frame whose header has {len(head)} bytes")
    header = FrameHeader.FromString(bytes(head))
    if len(header.parts) > MAX_PARTS:
        raise ProtocolError(
            f"a frame of {len(header.parts)} parts; at most {MAX_PARTS} are allowed"
        )
    return header, rest


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
    begin, length = _opening(view, tag)
    if begin + length > len(view):
        raise DecodeError("a length beyond the end")
    return view[begin : begin + length], view[begin + length :]


def _opening(view: memoryview, tag: int) -> tuple[int, int]:
    """Where the content of a field with this tag begins, and how long it is said to be."""
    if view[0] != tag:
        raise DecodeError("another field was expected")
    length, shift, position = 0, 0, 1
    while True:
        byte = view[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return position, length
        shift += 7
        if shift > 35:
            raise DecodeError("a length that does not end")


__all__ = [
    "Buffer",
    "FrameHeader",
    "Leave",
    "Message",
    "Part",
    "Segments",
    "cut",
    "decode",
    "decode_head",
    "encode",
    "goodbye",
    "message",
    "refusal",
    "segments",
]
