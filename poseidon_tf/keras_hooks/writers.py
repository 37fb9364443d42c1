"""Keras's callbacks that write files or send events: they do so once for the job, on rank 0.

On other ranks they are left out of the callbacks that `fit`, `evaluate` and `predict` are given;
the user's objects stay as they are. What `BackupAndRestore` restores on rank 0 goes to the others
as rank 0's values and first epoch, so the others need none of its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from poseidon_tf.strategy.writing import Writing

# OrbaxCheckpoint came later than the oldest Keras that we run on.
WRITERS = tuple(
    getattr(keras.callbacks, name)
    for name in (
        "BackupAndRestore",
        "CSVLogger",
        "ModelCheckpoint",
        "OrbaxCheckpoint",
        "RemoteMonitor",
        "TensorBoard",
    )
    if hasattr(keras.callbacks, name)
)


def for_rank(writing: Writing, callbacks: Any) -> list[Any]:
    """The callbacks that this worker runs, flat; classes derived from WRITERS count as those."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    flat = keras.tree.flatten(callbacks) if callbacks else []
    if writing.is_here:
        return flat
    return [callback for callback in flat if not isinstance(callback, WRITERS)]


@contextmanager
def arranged(
    writing: Writing,
    callbacks: Any,
    model: Any,
    *,
    first: list[Any],
    last: list[Any],
) -> Iterator[Any]:
    """Within: the callbacks of this worker, between `first` and `last`, as Keras wants them."""
    arrangement = [*first, *for_rank(writing, callbacks), *last]
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        yield arrangement
        return
    # The user's own list, which knows its model already; it gets its callbacks back.
    for callback in (*first, *last):
        callback.set_model(model)
    given, callbacks.callbacks = callbacks.callbacks, arrangement
    try:
        yield callbacks
    finally:
        callbacks.callbacks = given
