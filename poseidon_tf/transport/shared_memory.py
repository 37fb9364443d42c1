"""Memory that a process shares with a child it starts: tensor bytes that need no connection.

It has no name, so nothing remains of it when both processes have ended, however they end. The
child gets the file descriptor. Who writes where and when is for the callers to agree on.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from typing import final

import numpy as np

from poseidon_tf.errors import ProtocolError

# A cache line; also what vector instructions like.
_ALIGNMENT = 64
_FIRST_BYTES = 64 * 1024 * 1024


@final
class SharedMemory:
    """A file in memory, mapped as it grows.

    Args:
      descriptor: of the file; it is this object's from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()
        self._num_bytes = self._file_bytes = 0
        self._mapped = memoryview(b"")
        self._free: list[tuple[int, int]] = []  # Begin and end of each, in order, never touching.
        self._came_back: deque[tuple[int, int]] = deque()  # Not in there yet.

    @classmethod
    def create(cls) -> SharedMemory | None:
        """New and empty; None on a system that has no such files."""
        if not hasattr(os, "memfd_create"):
            return None
        return cls(os.memfd_create("poseidon_tf"))

    def grow(self, num_bytes: int) -> int:
        """The offset of `num_bytes` more: of what was given back, or at the end.

        Only the creator calls it.
        """
        with self._lock:
            self._join_free()
            for at, (begin, end) in enumerate(self._free):
                if num_bytes <= end - begin:
                    taken = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
                    self._free[at : at + 1] = [(begin + taken, end)] * (begin + taken < end)
                    return begin
            offset = -(-self._num_bytes // _ALIGNMENT) * _ALIGNMENT
            self._num_bytes = offset + num_bytes
            if self._num_bytes > self._file_bytes:
                # Ahead of what is needed, so that few mappings are made. What nobody writes to
                # takes no memory.
                self._file_bytes = max(_FIRST_BYTES, 2 * self._num_bytes)
                os.ftruncate(self.descriptor, self._file_bytes)
        return offset

    def give_back(self, offset: int, num_bytes: int) -> None:
        """What `grow` has given is not used any more. Only the creator calls it.

        It takes no lock: the garbage collector may call it anywhere.
        """
        self._came_back.append((offset, offset + -(-num_bytes // _ALIGNMENT) * _ALIGNMENT))

    def _join_free(self) -> None:
        while self._came_back:
            self._free.append(self._came_back.popleft())
        joined: list[tuple[int, int]] = []
        for begin, end in sorted(self._free):
            if joined and joined[-1][1] == begin:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((begin, end))
        self._free = joined

    def close(self) -> None:
        """Give the descriptor back; what is mapped stays until nothing refers to it."""
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1  # The number may soon be another file's.

    def view(self, offset: int, num_bytes: int) -> memoryview:
        """These bytes, writable.

        Raises:
          ProtocolError: they are not all within the memory.
        """
        if offset < 0 or num_bytes < 0:
            raise ProtocolError(f"{num_bytes} bytes from {offset} on of a shared memory")
        with self._lock:
            if offset + num_bytes > len(self._mapped):
                size = os.fstat(self.descriptor).st_size
                if offset + num_bytes > size:
                    raise ProtocolError(
                        f"bytes {offset} to {offset + num_bytes} of a shared memory of {size}"
                    )
                # Views into the mapping before keep it; both show the same bytes.
                self._mapped = memoryview(mmap.mmap(self.descriptor, size))
            return self._mapped[offset : offset + num_bytes]

    def write(self, offset: int, payload: bytes | memoryview) -> None:
        """Copy `payload` to `offset`; without the interpreter's lock, as numpy does it.

        Raises:
          ProtocolError: it would not be all within the memory.
        """
        place = self.view(offset, len(payload))
        np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(payload, np.uint8))
