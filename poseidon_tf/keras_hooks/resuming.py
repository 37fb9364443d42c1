"""Goes on where a backup was written: in the same epoch, after the same batch.

The data is opened as often as before, and read as far as that decides on its order; what has been
done of the epoch is read and not trained on. So every kind of data that can be read again comes as
it would have come to a job that was never ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks import place, progress
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.keras_hooks.progress import Progress
from poseidon_tf.keras_hooks.whole_files import adding
from poseidon_tf.strategy import fit_internals, tf_internals
from poseidon_tf.strategy.data.passes import Earlier
from poseidon_tf.strategy.strategy import runtime_of


def go_on(fit: Progress, epoch: int, batch: int, first_epoch: int) -> None:
    """Let the next epoch of `fit` be this one, without its first `batch` batches.

    All workers call it together, before the first epoch.
    """
    fit.epoch, fit.batch, fit.first_epoch = epoch, batch, first_epoch
    for _ in range(epoch - first_epoch):
        _pass_over(fit.epochs, fit.needs)
    fit.skips = batch


def _pass_over(epochs: Any, needs: Earlier) -> None:
    """Have an epoch's data as Keras has it, but train on nothing."""
    with epochs.catch_stop_iteration():
        for step, *_, iterator in epochs:
            if needs is Earlier.READ:
                for _ in range(epochs.steps_per_execution):
                    next(iterator)
                continue
            if needs is Earlier.BEGUN and step == 0:
                next(iterator)
            if epochs.num_batches is None:
                # It is open, and its end would be found by reading only.
                epochs.data_adapter.on_epoch_end()
                break
    fit_internals.forget_read_ahead(epochs.data_adapter)


def _enumerate(original: Callable[..., Any]) -> Callable[..., Any]:
    def _enumerate_iterator(self: Any) -> Any:
        fit = progress.current()
        if fit is None or fit.epochs is not self or not fit.skips:
            return original(self)
        skipped, fit.skips = fit.skips, 0
        return _without(original(self), skipped, self.steps_per_execution)

    return _enumerate_iterator


def _without(epoch: Iterator[Any], skipped: int, steps_per_execution: int) -> Iterator[Any]:
    """An epoch's (step, ..., iterator) after the first `skipped` batches, which are read."""
    for each in epoch:
        step, iterator = each[0], each[-1]
        if step < skipped:
            for number in range(step, min(step + steps_per_execution, skipped)):
                if not _has_read(iterator) and number < skipped - steps_per_execution:
                    raise ConfigError(
                        f"{skipped} batches of this epoch were done when the backup was written, "
                        f"and now its data has {number}; give fit the data that it had, or delete "
                        "the backup"
                    )
        else:
            yield each


def _has_read(iterator: Any) -> bool:
    try:
        next(iterator)
    except (StopIteration, tf.errors.OutOfRangeError):
        return False
    return True


def _save_backup(original: Callable[..., Any]) -> Callable[..., Any]:
    def _save_model(self: Any) -> None:
        fit = progress.current()
        if fit is None or runtime_of(self.model.distribute_strategy) is None:
            original(self)
            return
        there = fit.place(self.model)
        fit_internals.set_backup_epoch(self, there.epoch)
        with adding(lambda path: place.write(path, there)):
            original(self)

    return _save_model


HOOKS = (
    Hook(
        tf_internals.TFEpochIterator,
        "_enumerate_iterator",
        _enumerate,
        "an epoch in which a backup was written goes on after the batch that was done then",
    ),
    Hook(
        keras.callbacks.BackupAndRestore,
        "_save_model",
        _save_backup,
        "a backup remembers where the data was, and the right epoch after a restart",
    ),
)
