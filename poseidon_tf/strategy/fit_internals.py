"""The private names of Keras that tell where a `fit` is, and why; `tf_internals` has all others."""

from __future__ import annotations

from typing import Any


def initial_epoch(model: Any) -> int | None:
    """The epoch at which a callback lets `fit` begin; Keras has no public name for it."""
    epoch: int | None = model._initial_epoch
    return epoch


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Let `fit` begin at `epoch`; called when training begins."""
    model._initial_epoch = epoch


def write_backup(callback: Any) -> None:
    """Have a BackupAndRestore save now; Keras has no public way to ask for that."""
    callback._save_model()


def set_backup_epoch(callback: Any, epoch: int) -> None:
    """The epoch that a BackupAndRestore saves next.

    What it takes for the epoch is 0 until one has ended under it, also after it has restored a
    later one.
    """
    callback._current_epoch = epoch


def forget_read_ahead(data_adapter: Any) -> None:
    """What a PyDataset with several workers has read in a pass of which nobody wanted it.

    Keras keeps it, and would give it first in the next pass.
    """
    enqueuer = getattr(data_adapter, "enqueuer", None)
    if enqueuer is not None and data_adapter.num_batches is not None:
        with enqueuer.ready_queue.mutex:
            enqueuer.ready_queue.queue.clear()


def backup_paths(callback: Any) -> tuple[str, str]:
    """Where a BackupAndRestore has its weights, and those before, which count if those are broken.

    Keras says only in which folder they are.
    """
    return callback._weights_path, callback._prev_weights_path


def writer_of_training(callback: Any) -> Any:
    """The summary writer of a TensorBoard callback for what is trained; open while `fit` runs.

    Keras makes it the default one between batches alone, and only with some `update_freq`.
    """
    return callback._train_writer
