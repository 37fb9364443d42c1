"""Shared memory of a test, as the two processes that map it have it, closed after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from poseidon_tf.transport.shared_memory import SharedMemory

Sides: TypeAlias = tuple[SharedMemory, SharedMemory]


@contextlib.contextmanager
def two_sides() -> Iterator[Sides]:
    """The creator's, and that of the child which was given the descriptor."""
    creator = SharedMemory.create()
    if creator is None:
        pytest.skip("this system has no files in memory")
    child = SharedMemory(os.dup(creator.descriptor))
    try:
        yield creator, child
    finally:
        for side in (creator, child):
            side.close()
