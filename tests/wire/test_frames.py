"""Frames against protobuf's own reading of the same bytes, and against bytes that are none."""

import random

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import Frame, FrameHeader, Leave, Part
from poseidon_tf.wire.frames import cut, decode, encode, goodbye, refusal, segments


def random_frame(rng: random.Random) -> tuple[FrameHeader, list[bytes]]:
    """A header with every field now and then at its limits, and its parts' bytes."""
    payloads = [
        rng.randbytes(rng.choice([0, 1, 7, 127, 128, 300, 20_000])) for _ in range(rng.randrange(6))
    ]
    header = FrameHeader(
        parts=[
            Part(
                key=rng.choice([0, 1, 2**32 - 1]),
                step=rng.choice([0, 41, 2**64 - 1]),
                length=len(payload),
                rows=rng.choice([0, 32]),
                offset=rng.choice([0, 2**40]),
                total=rng.choice([0, 2**41]),
            )
            for payload in payloads
        ],
        credit=rng.choice([0, 1, 2**63]),
        refusal=rng.choice(["", "no – really"]),
    )
    if rng.random() < 0.3:
        header.goodbye.last_step = rng.choice([0, 7])
    return header, payloads


@pytest.mark.parametrize("seed", range(40))
def test_a_frame_has_the_bytes_that_protobuf_would_have_written(seed: int) -> None:
    """Encoding by hand and `Frame.SerializeToString` agree byte for byte."""
    header, payloads = random_frame(random.Random(seed))
    frame = Frame(header=header, payload=b"".join(payloads))
    assert encode(header, payloads) == frame.SerializeToString(deterministic=True)
    assert Frame.FromString(encode(header, [memoryview(p) for p in payloads])) == frame


@pytest.mark.parametrize("seed", range(40))
def test_a_frame_comes_back_as_it_went(seed: int) -> None:
    """Decoding what protobuf wrote gives the header and each part's own bytes."""
    header, payloads = random_frame(random.Random(seed))
    message = Frame(header=header, payload=b"".join(payloads)).SerializeToString()
    decoded, views = decode(message)
    assert decoded == header
    assert [bytes(view) for view in views] == payloads


def test_decoding_copies_no_payload() -> None:
    """The parts are read-only views of the message."""
    message = encode(FrameHeader(parts=[Part(length=3), Part(length=2)]), [b"abc", b"de"])
    _, views = decode(message)
    assert all(view.obj is message and view.readonly for view in views)


def test_a_refusal_and_a_goodbye_carry_no_payload() -> None:
    """Both are a header alone, and say what they were given."""
    header, views = decode(refusal("rank 1 pushed 'fc7' twice"))
    assert (header.refusal, views) == ("rank 1 pushed 'fc7' twice", [])
    header, views = decode(goodbye(41))
    assert (header.goodbye, views) == (Leave(last_step=41), [])
    assert decode(goodbye(0))[0].HasField("goodbye")
    assert not decode(encode(FrameHeader()))[0].HasField("goodbye")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        b"\x0a",  # a header without a length
        b"\x0a\x05",  # a header without content
        b"\x0a" + b"\xff" * 5,  # a length that does not end within the message
        b"\x0a" + b"\xff" * 20,  # ... nor within 35 bits
        b"\x0a\xff\xff\xff\xff\x0f",  # a length of 4 GiB
        b"\x0a\x02\x0a\x05",  # a header that is cut within
        b"\x0a\x03\x1a\x01\xff",  # a refusal that is no UTF-8
        b"\x12\x01a",  # a payload without a header
        b"\x0a\x00\x12",  # a payload without a length
        b"\x0a\x00\x0a\x00",  # two headers
        b"\x0a\x00\x12\x00\x12\x00",  # two payloads
        b"\x0a\x00\x12\x01",  # a payload that is cut
    ],
)
def test_garbage_is_refused(message: bytes) -> None:
    """Bytes that are no frame are a ProtocolError."""
    with pytest.raises(ProtocolError):
        decode(message)


@pytest.mark.parametrize(
    "lengths, payload",
    [([], b"a"), ([1], b""), ([2], b"a"), ([1, 1], b"a"), ([1], b"aa"), ([2**32 - 1] * 3, b"a")],
)
def test_parts_must_add_up_to_the_payload(lengths: list[int], payload: bytes) -> None:
    """A header that claims other bytes than follow is refused."""
    header = FrameHeader(parts=[Part(length=length) for length in lengths])
    with pytest.raises(ProtocolError, match="do not add up"):
        decode(Frame(header=header, payload=payload).SerializeToString())


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_a_frame_is_refused_or_whole(seed: int) -> None:
    """A message cut anywhere is refused, unless what is cut is a payload that no part claims."""
    header, payloads = random_frame(random.Random(seed))
    message = encode(header, payloads)
    head_bytes = len(encode(header))
    for end in [*range(min(len(message), 200)), len(message) - 1]:
        if end == head_bytes and not any(payloads):
            continue
        with pytest.raises(ProtocolError):
            decode(message[:end])


def test_mutated_frames_raise_nothing_but_protocol_errors() -> None:
    """Flipped, missing, doubled and foreign bytes either decode or are refused."""
    rng = random.Random(7)
    refused = 0
    for _ in range(4000):
        header, payloads = random_frame(rng)
        message = bytearray(encode(header, payloads)[:400])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(message) + 1)
            match rng.randrange(3):
                case 0:
                    message[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del message[at : at + rng.randint(1, 5)]
                case _:
                    message[at:at] = rng.randbytes(rng.randint(1, 5))
        try:
            decoded, views = decode(bytes(message))
        except ProtocolError:
            refused += 1
        else:
            assert [len(view) for view in views] == [part.length for part in decoded.parts]
    assert refused > 2000


@pytest.mark.parametrize("num_bytes", [0, 1, 9, 10, 11, 20, 25])
def test_cut_pieces_are_short_and_make_the_whole(num_bytes: int) -> None:
    """Pieces are at most a chunk long, in order, with their offsets; nothing is one empty piece."""
    payload = bytes(range(num_bytes))
    pieces = cut(memoryview(payload), chunk_bytes=10)
    assert len(pieces) == max(1, -(-num_bytes // 10))
    assert b"".join(piece for _, piece in pieces) == payload
    assert [offset for offset, _ in pieces] == [10 * index for index in range(len(pieces))]
    assert all(len(piece) <= 10 for _, piece in pieces)


def test_the_module_says_what_it_offers() -> None:
    """`__all__` is sorted and complete enough to import."""
    assert frames.__all__ == sorted(frames.__all__)
    assert all(hasattr(frames, name) for name in frames.__all__)


def test_a_frame_that_goes_to_many_is_joined_once() -> None:
    """Whoever takes it in one piece gets the same piece."""
    apart = segments(FrameHeader(parts=[Part(length=3), Part(length=2)]), [b"abc", b"de"])
    assert apart.joined() == encode(FrameHeader(parts=[Part(length=3), Part(length=2)]), [b"abcde"])
    assert apart.joined() is apart.joined()
