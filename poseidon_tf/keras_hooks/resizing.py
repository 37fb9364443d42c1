"""Each worker keeps its batch when their number changes: `on_resize="keep_worker_batch"`.

The epoch in which it changes is trained to its end in the batches that it began with, so that every
sample comes once. From the next epoch on Keras reads the same data in other batches, and the
learning rate has changed as the batch of all workers has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.agreement import SHARED
from poseidon_tf.strategy.data.datasets import rows_of_batches
from poseidon_tf.strategy.data.passes import reads_files

KEEPS_WORKER_BATCH = "keep_worker_batch"


def refusal(model: Any, arguments: Mapping[str, Any], callbacks: Sequence[Any]) -> str:
    """Why workers cannot keep their batches in a `fit` that has a backup; empty if they can.

    It is said in the first run, not in the one that has another number of workers.

    Args:
      arguments: of `fit`.
      callbacks: this worker's own.
    """
    if not any(isinstance(each, keras.callbacks.BackupAndRestore) for each in callbacks):
        return ""
    why = _why_not_in_other_batches(arguments) or _why_not_at_another_rate(model, callbacks)
    return why and f"on_resize={KEEPS_WORKER_BATCH!r}, but {why}; take 'keep_global_batch'"


def rows_of_worker(rows: int | None, num_workers: int) -> int:
    """Of a batch of `rows` of all workers, how many are each one's.

    Raises:
      ConfigError: they are not as many on each.
    """
    if not rows or rows % num_workers:
        raise ConfigError(
            f"on_resize={KEEPS_WORKER_BATCH!r} needs batches that workers share equally, and "
            f"{num_workers} workers have batches of {rows or 'an unknown number of'} rows; make "
            "them a multiple of the number of workers, or take 'keep_global_batch'"
        )
    return rows // num_workers


def in_batches_of(rows: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What Keras makes its iterator of, for batches of so many rows of all workers."""
    x = arguments.get("x")
    if not isinstance(x, tf.data.Dataset):
        return {**arguments, "batch_size": rows}
    if rows_of_batches(x) == rows:
        return dict(arguments)
    anew, samples = batched_anew(x, rows), _num_samples(x)
    if samples is not None:  # Else Keras opens the data more seldom than it did.
        batches = samples // rows if _is_static(x) else -(-samples // rows)
        anew = anew.apply(tf.data.experimental.assert_cardinality(batches))
    return {**arguments, "x": anew}


def batched_anew(x: tf.data.Dataset, rows: int) -> tf.data.Dataset:
    """The samples of `x` in batches of `rows`; a last one that is smaller only where `x` may."""
    return x.unbatch().batch(rows, drop_remainder=_is_static(x))


def scale_learning_rate(model: Any, factor: float) -> tuple[float, float]:
    """Change it; what it was, and what it is."""
    before = float(np.asarray(model.optimizer.learning_rate))
    model.optimizer.learning_rate = before * factor
    return before, float(np.asarray(model.optimizer.learning_rate))


def policy_of(dataset: tf.data.Dataset) -> str:
    """As `DataFacts` have it, but what TensorFlow may deal out by files counts as that."""
    policy: str = dataset.options().experimental_distribute.auto_shard_policy.name
    return "FILE" if policy == "AUTO" and reads_files(dataset) else policy


def _is_static(x: tf.data.Dataset) -> bool:
    """Whether every batch has the same number of rows."""
    shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(x.element_spec)]
    return all(shape and shape[0] for shape in shapes)


def _num_samples(x: tf.data.Dataset) -> int | None:
    """Of batches; None if it cannot be told without reading them."""
    batches, rows = int(x.cardinality()), rows_of_batches(x)
    if batches < 0 or rows is None:
        return None
    if _is_static(x):
        return batches * rows
    while int(x.cardinality()) == batches:  # One batch for each, as map() and prefetch() have it.
        sources = tf_internals.sources(x)
        if len(sources) != 1:
            return None
        (x,) = sources
    samples = int(x.cardinality())
    return samples if -(-samples // rows) == batches else None


def _why_not_in_other_batches(arguments: Mapping[str, Any]) -> str:
    x = arguments.get("x")
    if arguments.get("steps_per_epoch"):
        return "steps_per_epoch says how much of the data is an epoch, in batches of one size"
    if isinstance(x, tf.data.Dataset):
        if policy_of(x) not in SHARED:
            return "each worker has data of its own, which is not put into other batches"
        if not rows_of_batches(x):
            return (
                "its tf.data does not say how many rows a batch has, as where map() follows batch()"
            )
        if int(x.cardinality()) >= 0 and _num_samples(x) is None:
            return "its tf.data says how many batches it has, and not how many samples"
        return ""
    if not hasattr(tf.nest.flatten(x)[0], "shape"):
        return f"a {type(x).__name__} makes its own batches"
    return ""


def _why_not_at_another_rate(model: Any, callbacks: Sequence[Any]) -> str:
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.LearningRateScheduler):
            return "a LearningRateScheduler sets the learning rate, whatever it was scaled to"
    try:
        rate = model.optimizer.learning_rate
    except (AttributeError, ValueError):  # It has several.
        rate = None
    if not isinstance(rate, keras.Variable):
        return (
            "its learning rate is no number that can be scaled: a schedule counts steps, and an "
            "epoch has another number of them then"
        )
    return ""
