"""Shared memory: both sides see the same bytes, it grows, and nobody reaches beyond its file."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.shared_memory import SharedMemory
from tests.support.memories import Sides, two_sides


@pytest.fixture
def sides() -> Iterator[Sides]:
    with two_sides() as both:
        yield both


def test_both_sides_see_what_either_writes(sides: Sides) -> None:
    """Through `write` and through a view, in both directions."""
    creator, child = sides
    offset = creator.grow(8)
    creator.write(offset, b"one 1234")
    assert bytes(child.view(offset, 8)) == b"one 1234"
    child.view(offset + 4, 4)[:] = b"5678"
    assert bytes(creator.view(offset, 8)) == b"one 5678"


def test_what_is_added_is_aligned_and_overlaps_nothing(
    sides: Sides,
) -> None:
    """Every piece begins at a multiple of 64, behind the one before."""
    creator, _ = sides
    sizes = [1, 64, 65, 100_000, 3]
    offsets = [creator.grow(size) for size in sizes]
    assert all(offset % 64 == 0 for offset in offsets)
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    assert all(end <= begin for end, begin in zip(ends, offsets[1:], strict=False))


def size_of(memory: SharedMemory) -> int:
    """Of the file."""
    return os.fstat(memory.descriptor).st_size


def address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def test_what_fits_the_files_first_size_is_in_one_mapping(
    sides: Sides,
) -> None:
    """The file is made ahead of what is needed, and what nobody wrote to takes no memory."""
    creator, _ = sides
    creator.grow(1)
    size = size_of(creator)
    assert size == 64 * 1024 * 1024
    first = [address(side.view(0, 1)) for side in sides]
    offsets = [creator.grow(1_000_000) for _ in range(50)]
    assert size_of(creator) == size
    for side, begin in zip(sides, first, strict=True):
        assert [address(side.view(offset, 1)) - begin for offset in offsets] == offsets
    assert os.fstat(creator.descriptor).st_blocks * 512 <= 2 * 1024 * 1024


def test_what_fits_no_more_doubles_the_file(sides: Sides) -> None:
    """Twice what is needed then, whatever it was before; the last byte is there too."""
    creator, child = sides
    creator.grow(100)
    offset = creator.grow(100_000_000)
    assert size_of(creator) == 2 * (offset + 100_000_000)
    creator.write(offset + 99_999_999, b"z")
    assert bytes(child.view(offset + 99_999_999, 1)) == b"z"


def test_what_was_given_back_is_used_again_before_the_end(sides: Sides) -> None:
    """Neighbours become one piece, of which a smaller one leaves the rest; all stay aligned."""
    creator, _ = sides
    first, second, third, last = [creator.grow(100) for _ in range(4)]
    creator.give_back(third, 100)
    creator.give_back(first, 100)
    assert creator.grow(129) == last + 128  # Neither has so much.
    creator.give_back(second, 100)
    assert creator.grow(200) == first
    assert creator.grow(128) == first + 256
    assert creator.grow(1) == last + 128 + 192


def test_closing_gives_the_descriptor_back_and_leaves_what_is_mapped() -> None:
    """Views can be read and written to for as long as somebody has them."""
    with two_sides() as (creator, child):
        other = SharedMemory(os.dup(creator.descriptor))
        view = other.view(creator.grow(3), 3)
        other.close()
        with pytest.raises(OSError):
            os.fstat(other.descriptor)
        creator.write(0, b"abc")
        assert bytes(view) == b"abc"
        view[:] = b"xyz"
        assert bytes(child.view(0, 3)) == b"xyz"


def test_a_view_outlives_growth_on_either_side(sides: Sides) -> None:
    """Views from before the memory grew still show the same bytes as those from after."""
    creator, child = sides
    first = creator.grow(10)
    before = [side.view(first, 10) for side in sides]
    second = creator.grow(size_of(creator))
    creator.write(second, b"far")
    assert bytes(child.view(second, 3)) == b"far"
    child.view(first, 10)[:] = b"0123456789"
    assert [bytes(view) for view in before] == [b"0123456789"] * 2


@pytest.mark.parametrize("offset, num_bytes", [(0, 1), (-1, 2), (-100, 101), (2**63, 1)])
def test_nobody_reaches_beyond_the_end(sides: Sides, offset: int, num_bytes: int) -> None:
    """Neither to read nor to write, on the child's side as well; and it can be used afterwards."""
    creator, _ = sides
    assert creator.grow(100) == 0
    size = size_of(creator)
    begin, end = size + offset, size + offset + num_bytes
    for side in sides:
        with pytest.raises(ProtocolError, match=f"bytes {begin} to {end} of a .* memory of {size}"):
            side.view(begin, num_bytes)
        with pytest.raises(ProtocolError):
            side.write(begin, b"x" * num_bytes)
        assert bytes(side.view(0, 100)) == bytes(100)


@pytest.mark.parametrize("offset, num_bytes", [(-1, 2), (-64, 64), (0, -1)])
def test_nobody_reaches_before_the_beginning(sides: Sides, offset: int, num_bytes: int) -> None:
    """Python would count from the end, which may be another's."""
    creator, child = sides
    creator.grow(100)
    for side in (creator, child):
        side.view(0, 100)
        with pytest.raises(ProtocolError, match=f"{num_bytes} bytes from {offset} on"):
            side.view(offset, num_bytes)


def test_memory_that_has_not_grown_has_no_bytes(sides: Sides) -> None:
    """A place in it is refused; nothing at all may be asked for."""
    for side in sides:
        assert len(side.view(0, 0)) == 0
        with pytest.raises(ProtocolError, match="of a shared memory of 0"):
            side.view(0, 1)


CHILD = """
import sys
from poseidon_tf.transport.shared_memory import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
offset = int(sys.argv[2])
memory.write(offset, bytes(memory.view(offset, 5)).upper())
"""


@pytest.mark.processes
def test_a_child_process_is_given_the_descriptor(sides: Sides) -> None:
    """It maps the same bytes, and only the child that the descriptor was passed to has it."""
    creator, _ = sides
    creator.grow(1000)
    offset = creator.grow(5)
    creator.write(offset, b"hello")
    command = [sys.executable, "-c", CHILD, str(creator.descriptor), str(offset)]
    subprocess.run(command, check=True, pass_fds=[creator.descriptor])
    assert bytes(creator.view(offset, 5)) == b"HELLO"
    refused = subprocess.run(command, capture_output=True, text=True, close_fds=False)
    assert refused.returncode and "Bad file descriptor" in refused.stderr


def test_a_system_without_such_files_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The creator gets None and goes on without."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert SharedMemory.create() is None
