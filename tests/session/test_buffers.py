"""Buffers for results: aligned, and used again only when nobody refers to them."""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from poseidon_tf.session.buffers import ALIGNMENT, Buffers
from tests.support.memories import two_sides

NUM_BYTES = 1000


@pytest.fixture(params=["own", "shared"])
def buffers(request: pytest.FixtureRequest) -> Iterator[Buffers]:
    """Of this process's own memory, and of memory that it shares."""
    if request.param == "own":
        yield Buffers(NUM_BYTES)
        return
    with two_sides() as (creator, _):
        yield Buffers(NUM_BYTES, creator)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def capsule(array: np.ndarray) -> Any:
    return array.__dlpack__()


def test_buffers_are_aligned_writable_and_apart(buffers: Buffers) -> None:
    """Each begins at a multiple of 64 and shares no byte with another that is in use."""
    taken = [buffers.take().values for _ in range(5)]
    for at, values in enumerate(taken):
        assert values.shape == (NUM_BYTES,) and values.dtype == np.uint8
        assert address(values) % ALIGNMENT == 0
        values[:] = at
    assert [set(values.tolist()) for values in taken] == [{at} for at in range(5)]


def test_a_buffer_is_used_again_when_it_is_free(buffers: Buffers) -> None:
    """Many steps, one after the other, need the memory of one."""
    addresses = {address(buffers.take().values) for _ in range(10)}
    assert len(addresses) == 1
    two = [buffers.take().values for _ in range(2)]
    first = address(two[0])
    assert first in addresses and address(two[1]) != first
    del two[0]
    assert address(buffers.take().values) == first


@pytest.mark.parametrize(
    "refer",
    [
        lambda values: values[10:20],
        lambda values: values.view(np.float32),
        lambda values: values.view(np.uint16).reshape(50, 10)[3:, ::2].T,
        lambda values: np.frombuffer(values.data, np.uint8),
        lambda values: values.data[100:],
        lambda values: memoryview(values).cast("f"),
        lambda values: np.from_dlpack(values.view(np.float32)),
        capsule,
        lambda values: capsule(values[10:20].view(np.uint16)),
        lambda values: (ctypes.c_ubyte * 10).from_buffer(values),
    ],
    ids=["slice", "dtype", "strides", "array", "memory", "cast", "dlpack", "capsule", "part", "c"],
)
def test_nothing_is_used_again_while_anything_refers_to_it(
    buffers: Buffers, refer: Callable[..., Any]
) -> None:
    """A view of any kind keeps its buffer; the end of the last one frees it."""
    values = buffers.take().values
    first = address(values)
    values[:] = 7
    kept = refer(values)
    del values
    gc.collect()
    others = [buffers.take().values for _ in range(3)]
    assert first not in {address(other) for other in others}
    for other in others:
        other[:] = 9
    again = refer(np.full(NUM_BYTES, 7, np.uint8))
    if isinstance(kept, np.ndarray | memoryview):
        assert kept.tobytes() == again.tobytes()
    del kept
    gc.collect()
    assert address(buffers.take().values) == first


def test_the_offset_is_that_of_the_bytes_in_the_shared_memory() -> None:
    """What is put in a buffer is at its offset on the other side, new or used again."""
    with two_sides() as (creator, child):
        creator.grow(10)
        buffers = Buffers(NUM_BYTES, creator)
        for _ in range(2):
            taken = [buffers.take() for _ in range(3)]
            assert len({buffer.offset for buffer in taken}) == 3
            for at, buffer in enumerate(taken):
                assert buffer.offset is not None
                assert buffer.offset >= 10 and buffer.offset % ALIGNMENT == 0
                buffer.values[:] = at + 1
            for at, buffer in enumerate(taken):
                assert buffer.offset is not None
                assert bytes(child.view(buffer.offset, NUM_BYTES)) == bytes([at + 1]) * NUM_BYTES
                child.view(buffer.offset, 1)[:] = b"\xff"
                assert buffer.values[0] == 255
            del taken, buffer
        assert creator.grow(0) <= 4 * 1024  # Three buffers, and no more for the second round.


def test_own_memory_has_no_offset() -> None:
    """There is nothing in which another process could find it."""
    assert Buffers(NUM_BYTES).take().offset is None


def test_a_buffer_of_nothing_may_be_taken() -> None:
    """No rows make no bytes."""
    for _ in range(2):
        assert Buffers(0).take().values.size == 0


def test_threads_never_hold_the_same_buffer(buffers: Buffers) -> None:
    """What one thread writes stays as it is while others take and give back."""
    wrong = []

    def use(number: int) -> None:
        for _ in range(300):
            values = buffers.take().values
            values[:] = number
            part = values[::7].view()
            del values
            if (part != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_released_buffers_are_given_back_and_those_in_use_when_they_are_free() -> None:
    """The shared memory has room for others then; what is taken later is kept as before."""
    with two_sides() as (creator, _):
        buffers, end = Buffers(NUM_BYTES, creator), 3 * 1024
        taken = [buffers.take().values for _ in range(3)]
        del taken[1:]
        buffers.release()
        assert [creator.grow(2 * 1024), creator.grow(1024)] == [1024, end]
        del taken[:]
        assert creator.grow(1024) == 0
        first = buffers.take().offset
        assert first == end + 1024
        assert buffers.take().offset == first
