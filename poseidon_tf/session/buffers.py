"""Memory for results that is used again once nobody refers to the last result in it.

A step's results are as large as the model's gradients. New memory for each would cost the kernel
a cleared page per 4 KiB, and memory that is aligned is taken over by TensorFlow without a copy.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from typing import NamedTuple, final

import numpy as np

from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.dtypes import Array

# What TensorFlow asks of memory that it did not allocate.
ALIGNMENT = 64


class Buffer(NamedTuple):
    """Bytes to be filled, and their offset in the shared memory, if they are there."""

    values: Array
    offset: int | None


@final
class Buffers:
    """Buffers of `num_bytes` each, as many as are in use at the same time.

    Args:
      memory: where they are made; None for this process's own.
    """

    def __init__(self, num_bytes: int, memory: SharedMemory | None = None) -> None:
        # A lease is an object of its own between the memory and the arrays: views of views all
        # refer to it, while numpy would let a view of an array refer to what is behind it.
        self._lease_type = ctypes.c_ubyte * num_bytes
        self._memory = memory
        self._free: deque[tuple[memoryview, int | None]] = deque()
        self._is_released = False

    def take(self) -> Buffer:
        """A buffer of any content, aligned; it is free again when no view of it is left."""
        self._is_released = False
        try:
            view, offset = self._free.popleft()
        except IndexError:
            view, offset = self._new()
        lease = self._lease_type.from_buffer(view)
        weakref.finalize(lease, self._came_back, view, offset).atexit = False
        values: Array = np.frombuffer(lease, np.uint8)  # type: ignore[call-overload]
        return Buffer(values, offset)

    def release(self) -> None:
        """Keep no buffer that nobody uses, until another one is taken."""
        self._is_released = True
        while self._free:
            self._give_up(*self._free.popleft())

    def _came_back(self, view: memoryview, offset: int | None) -> None:
        if self._is_released:
            self._give_up(view, offset)
        else:
            self._free.append((view, offset))

    def _give_up(self, view: memoryview, offset: int | None) -> None:
        if self._memory is not None and offset is not None:
            self._memory.give_back(offset, len(view))

    def _new(self) -> tuple[memoryview, int | None]:
        num_bytes = ctypes.sizeof(self._lease_type)
        if self._memory is not None:
            offset = self._memory.grow(num_bytes)
            return self._memory.view(offset, num_bytes), offset
        memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % ALIGNMENT
        return memory[begin : begin + num_bytes].data, None
