"""Hooks in Keras for data whose shares differ: ends, empty batches, and what they would spoil.

- Epochs end where the data of all workers does, not after this worker's own batches. The end of a
  job that has failed is not taken for one.
- A PyDataset is shuffled in the same way everywhere.
- What a PyDataset or a generator gives is copied, so that no step writes into the user's arrays.
- Building a model before its first step opens no iterator: a generator's batches would be lost.
- BatchNormalization: no rows have no mean. The moving statistics stand for theirs. Synchronised,
  it has gradients that count every row alike where shares are weighed by their rows.
- Means of single numbers, such as a loss: no rows count nothing, whatever the number is.
- Gradients that are accumulated: no rows add nothing.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.keras_hooks import progress
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.keras_hooks.optimizers import runtime_that_sums
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.py_datasets import InOneOrder
from poseidon_tf.strategy.data.shares import without_empty
from poseidon_tf.strategy.gradients.sample_weights import across_shares
from poseidon_tf.strategy.strategy import runtime_of, runtime_of_replica


def _open_epochs(original: Callable[..., Any]) -> Callable[..., Any]:
    def __init__(self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any) -> None:
        runtime = runtime_of(distribute_strategy)
        if runtime is None:
            original(self, distribute_strategy, *args, **kwargs)
            return
        # Keras names all arguments.
        x: Any = kwargs.get("x")
        ends_by_steps = bool(kwargs.get("steps_per_epoch"))
        fit = progress.current()
        later = fit if fit is not None and fit.is_making_other_batches else None
        fit = fit if fit is not None and fit.epochs is None else None  # Of the training data only.
        given = dict(kwargs)
        if fit is not None:
            fit.keep_batches(kwargs)
        is_shuffled = isinstance(x, keras.utils.PyDataset) and kwargs.get("shuffle")
        if is_shuffled and x.num_batches is not None:
            drawn = (fit and fit.restored_order_seed) or random.getrandbits(63)
            part = runtime.worker.gather("call fit", drawn.to_bytes(8, "little"))[0]
            seed = int.from_bytes(part, "little")
            if fit is not None:
                fit.order_seed = seed
            kwargs["x"] = InOneOrder(x, seed=seed, is_read_on=ends_by_steps)
            kwargs["shuffle"] = False
        with runtime.data.read_by_keras(
            # Keras has made its adapter by the time that it distributes the adapter's dataset.
            num_batches=lambda: self.data_adapter.num_batches,
            ends_by_steps=ends_by_steps,
            may_be_the_users=_is_made_by_python(kwargs.get("x")),
        ):
            original(self, distribute_strategy, *args, **kwargs)
            if fit is not None:
                fit.reads(self, kwargs.get("x"))
            elif later is not None:
                later.reads_in_other_batches(self, kwargs.get("x"))
        _take_num_batches(self)
        if fit is not None and (others := fit.for_other_batches(given)) is not None:
            with fit.making_other_batches():
                type(self)(distribute_strategy, *args, **others)

    return __init__


def _is_made_by_python(x: Any) -> bool:
    """Whether batches come from a PyDataset, a generator and the like, not from TensorFlow."""
    is_dataset = isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset))
    return not is_dataset and not hasattr(tf.nest.flatten(x)[0], "shape")


def _reset_epochs(original: Callable[..., Any]) -> Callable[..., Any]:
    def reset(self: Any) -> None:
        original(self)
        if runtime_of(tf_internals.strategy_of_epochs(self)) is not None:
            _take_num_batches(self)

    return reset


def _catch_stop_iteration(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keras takes the end of an iterator for that of the data, and warns: not in a failed job."""

    @contextlib.contextmanager
    def catch_stop_iteration(self: Any) -> Iterator[None]:
        runtime = runtime_of(tf_internals.strategy_of_epochs(self))
        with original(self):
            try:
                yield
            except (StopIteration, tf.errors.OutOfRangeError):
                failure = None if runtime is None else runtime.worker.session.failure
                if failure is not None:
                    raise failure  # noqa: B904 - It is no consequence of the end.
                raise

    return catch_stop_iteration


def _take_num_batches(epochs: Any) -> None:
    """The adapter knows how many batches were given; steps are what the workers agreed on."""
    steps = int(tf_internals.distributed_dataset(epochs).cardinality)
    tf_internals.set_num_batches(epochs, None if steps < 0 else steps)


def _build(original: Callable[..., Any]) -> Callable[..., Any]:
    """Builds from the elements' shapes where these say enough, else from the first batch.

    Keras averages that batch over all replicas only to have its shapes.
    """

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, iterator=iterator, data_batch=data_batch)
        if iterator is not None:
            dataset = tf_internals.distributed_dataset(iterator)
            spec = tf_internals.of_one_replica(dataset.element_spec)
            if all(map(_says_enough, tf.nest.flatten(spec))):
                iterator, data_batch = None, tf.nest.map_structure(_symbol, spec)
        with runtime.reductions.shapes_only():
            return original(self, iterator=iterator, data_batch=data_batch)

    return _maybe_symbolic_build


def _says_enough(spec: Any) -> bool:
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank and None not in spec.shape[1:]


def _symbol(spec: tf.TensorSpec) -> keras.KerasTensor:
    return keras.KerasTensor((None, *spec.shape[1:]), spec.dtype.name)


def _moments(original: Callable[..., Any]) -> Callable[..., Any]:
    def moments(self: Any, inputs: Any, mask: Any) -> Any:
        runtime = runtime_of_replica()
        if self.synchronized and runtime is not None and runtime.gradients.weighs_samples:
            rows = runtime.data.shares.rows()
            if rows is not None:
                return across_shares(lambda own: original(self, own, mask), inputs, rows)
        mean, variance = original(self, inputs, mask)
        # Synchronised statistics are those of all shares together.
        if self.synchronized or runtime is None or tf.TensorShape(inputs.shape)[0]:
            return mean, variance
        has_rows = tf.shape(inputs)[0] > 0
        return (
            tf.where(has_rows, mean, tf.cast(self.moving_mean, mean.dtype)),
            tf.where(has_rows, variance, tf.cast(self.moving_variance, variance.dtype)),
        )

    return moments


def _update_mean(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_state(self: Any, values: Any, sample_weight: Any = None) -> Any:
        runtime = runtime_of_replica()
        rows = None if runtime is None else runtime.data.shares.rows_to_check()
        if isinstance(rows, int):
            return None  # Known to be empty.
        is_number = getattr(values, "shape", None) is not None and len(values.shape) == 0
        if rows is None or not is_number:
            return original(self, values, sample_weight)
        values = without_empty(rows, tf.convert_to_tensor(values))
        counts = tf.cast(tf.greater(rows, 0), self.dtype)
        weight = counts if sample_weight is None else counts * tf.cast(sample_weight, self.dtype)
        return original(self, values, weight)

    return update_state


def _apply_gradients(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply_gradients(self: Any, grads: Sequence[Any], trainable_variables: Any) -> Any:
        runtime = runtime_that_sums()
        if self.gradient_accumulation_steps and runtime is not None:
            rows = runtime.data.shares.rows_to_check()
            grads = [without_empty(rows, gradient) for gradient in grads]
        return original(self, grads, trainable_variables)

    return apply_gradients


HOOKS = (
    Hook(
        tf_internals.TFEpochIterator,
        "__init__",
        _open_epochs,
        "the data of all workers has one end, and a PyDataset one order",
    ),
    Hook(
        tf_internals.TFEpochIterator,
        "reset",
        _reset_epochs,
        "steps are what the workers agreed on, not what the adapter knows",
    ),
    Hook(
        tf_internals.TFEpochIterator,
        "catch_stop_iteration",
        _catch_stop_iteration,
        "the end of a failed job is no end of the data",
    ),
    Hook(
        tf_internals.TensorFlowTrainer,
        "_maybe_symbolic_build",
        _build,
        "building opens no iterator, which would lose a generator's batches, and sums nothing",
    ),
    Hook(
        keras.layers.BatchNormalization,
        "_moments",
        _moments,
        "no rows have no mean; synchronised statistics count every row alike",
    ),
    Hook(
        keras.metrics.Mean,
        "update_state",
        _update_mean,
        "a loss over no rows counts nothing",
    ),
    Hook(
        tf_internals.TFOptimizer,
        "_backend_apply_gradients",
        _apply_gradients,
        "no rows add nothing to accumulated gradients",
    ),
)
