"""How large a frame's header may be: looked at before memory is taken for what it says."""

from typing import Any

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import MAX_HEADER_BYTES, MAX_PARTS, MAX_REASON_CHARS

LARGEST = {"key": 2**32 - 1, "step": 2**64 - 1, "length": 2**32 - 1, "rows": 2**32 - 1}
LARGEST |= {"offset": 2**64 - 1, "total": 2**64 - 1, "place": 2**64 - 1}


def test_as_many_parts_as_are_allowed_fit_whatever_they_say() -> None:
    """Each field at its largest, and a reason besides: nothing that we send is ever refused."""
    message = frames.encode(
        FrameHeader(parts=[Part(**LARGEST)] * MAX_PARTS, refusal="\U0001f600" * MAX_REASON_CHARS)
    )
    header, views = frames.decode(message)
    assert len(header.parts) == len(views) == MAX_PARTS


def test_a_part_too_many_is_refused() -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {MAX_PARTS + 1} parts"):
        frames.decode(frames.encode(FrameHeader(parts=[Part()] * (MAX_PARTS + 1))))


def test_a_header_too_long_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes make a part that takes a hundred: these would be 40 million."""
    parsed: list[Any] = []
    monkeypatch.setattr(frames, "FrameHeader", parsed)  # Has no FromString: it would fail.
    head = b"\x0a\x00" * (40 * 1024 * 1024)
    message = b"\x0a" + frames._varint(len(head)) + head
    with pytest.raises(ProtocolError, match=f"a frame whose header has {len(head)} bytes"):
        frames.decode(message)
    assert len(head) > MAX_HEADER_BYTES


def test_a_long_reason_is_cut() -> None:
    """Whoever gives up is heard, however much it has to say."""
    header, _ = frames.decode(frames.refusal("x" * 10**6))
    assert header.refusal == "x" * MAX_REASON_CHARS
