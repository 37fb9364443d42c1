"""Parts with a place: their bytes are in the shared memory, and the frame only says where."""

from collections.abc import Iterator

import pytest

from poseidon_tf.transport.frame_queue import PLACED_FRAME_BYTES, FrameQueue
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.frame_pb2 import Part
from poseidon_tf.wire.frames import decode
from tests.support.memories import two_sides
from tests.transport.queue_frames import frames_of, part, placed


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    with two_sides() as (creator, _):
        creator.grow(4 * PLACED_FRAME_BYTES)
        yield creator


def test_placed_bytes_are_in_the_memory_when_their_frame_leaves(memory: SharedMemory) -> None:
    """They are copied when the part is taken, not before, and the frame only says where."""
    waiting = FrameQueue(memory=memory)
    payload = bytearray(b"early")
    waiting.put_parts([placed(0, memoryview(payload), 0), placed(1, b"again", 64)])
    assert bytes(memory.view(0, 69)) == bytes(69)
    payload[:] = b"later"
    waiting.close()
    (message,) = waiting
    assert isinstance(message, bytes)
    header, payloads = decode(message)
    assert [(p.place - 1, p.length) for p in header.parts] == [(0, 5), (64, 5)]
    assert [bytes(view) for view in payloads] == [b"", b""]
    assert b"later" not in message and bytes(memory.view(0, 5)) == b"later"
    assert bytes(memory.view(64, 5)) == b"again"
    assert bytes(memory.view(5, 59)) == bytes(59)


def test_a_placed_part_without_bytes_leaves_the_memory_alone(memory: SharedMemory) -> None:
    """They are there already, and only their length is told."""
    memory.write(0, b"there")
    waiting = FrameQueue(memory=memory)
    waiting.put_parts([(Part(key=0, length=5, place=1), b"")])
    waiting.close()
    (message,) = waiting
    assert decode(message)[0].parts[0].length == 5
    assert bytes(memory.view(0, 5)) == b"there"


def test_placed_parts_need_no_credit(memory: SharedMemory) -> None:
    """They leave through a full window and fill none."""
    waiting = FrameQueue(window_bytes=10, memory=memory)
    waiting.put_parts([part(0, 10), placed(1, b"x" * 50, 0), placed(2, b"y" * 50, 64)])
    waiting.put_parts([part(3, 0), part(4, 1)])
    assert [keys for keys, _ in frames_of(waiting)] == [[0, 1, 2, 3]]
    waiting = FrameQueue(window_bytes=10, memory=memory)
    waiting.put_parts([placed(0, b"x" * 50, 0), part(1, 4), part(2, 6), part(3, 1)])
    assert [keys for keys, _ in frames_of(waiting)] == [[0, 1, 2]]


def test_a_placed_part_overtakes_nothing(memory: SharedMemory) -> None:
    """Behind a part that credit holds back it waits too."""
    waiting = FrameQueue(window_bytes=10, memory=memory)
    waiting.put_parts([part(0, 10), part(1, 10), placed(2, b"x", 0)])
    assert [keys for keys, _ in frames_of(waiting)] == [[0]]
    assert bytes(memory.view(0, 1)) == bytes(1)


def test_placed_and_other_parts_share_a_frame_and_come_apart(memory: SharedMemory) -> None:
    """The frame's bytes are those of the parts without a place, in order."""
    waiting = FrameQueue(memory=memory)
    waiting.put_parts([part(7, 3), placed(8, b"place", 0), part(9, 2)])
    waiting.close()
    (message,) = waiting
    header, payloads = decode(message)
    assert [p.key for p in header.parts] == [7, 8, 9]
    assert [bytes(view) for view in payloads] == [b"\x07" * 3, b"", b"\x09" * 2]


def test_placed_parts_share_larger_frames(memory: SharedMemory) -> None:
    """Not their bytes but the time until the first is heard of limits a frame."""
    quarter = bytes(PLACED_FRAME_BYTES // 4)
    waiting = FrameQueue(memory=memory)
    waiting.put_parts([placed(key, quarter, 0) for key in range(6)])
    waiting.put_parts([placed(6, bytes(PLACED_FRAME_BYTES + 1), 0), placed(7, b"x", 0)])
    assert [keys for keys, _ in frames_of(waiting)] == [[0, 1, 2, 3], [4, 5], [6], [7]]
