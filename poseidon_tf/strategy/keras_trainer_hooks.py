"""Hooks in Keras's trainer: what `fit` and `evaluate` need where several workers run them.

- `fit`: the workers start from the same values, and only rank 0 draws a progress bar.
- `evaluate`, `fit`: metrics are summed where all workers read them, at the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy.metric_values import results_of_all
from poseidon_tf.strategy.strategy import ClusterStrategy, among_others


class _FirstValues(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives the model and its optimizer rank 0's values when training begins."""

    def __init__(self, strategy: ClusterStrategy) -> None:
        super().__init__()
        self._strategy = strategy

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        self._strategy.agree_on_first_values(
            [*self.model.weights, *getattr(optimizer, "variables", ())], what="values before fit"
        )


def fit(original: Callable[..., Any]) -> Callable[..., Any]:
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = among_others(self.distribute_strategy)
        if strategy is None:
            return original(self, *args, **kwargs)
        if self.jit_compile is True:
            raise ConfigError(
                "jit_compile=True compiles the whole step into one piece, from which no gradient "
                "can leave early; compile the model with jit_compile=False under PoseidonStrategy"
            )
        # fit(x, y, batch_size, epochs, verbose, callbacks, ...)
        named = dict(zip(_FIT_ARGUMENTS, args, strict=False)) | kwargs
        named["verbose"] = verbosity(strategy, named.get("verbose", "auto"))
        named["callbacks"] = with_callback(named.get("callbacks"), _FirstValues(strategy), self)
        with strategy.training(_batch_size(named)):
            return original(self, **named)

    return fit


def _batch_size(named: dict[str, Any]) -> int | None:
    """Rows of a batch that `fit` makes of arrays: a dataset of them hides it behind its last one.

    Whatever brings its own batches tells by itself, or cannot tell.
    """
    batched = (tf.data.Dataset, tf.distribute.DistributedDataset, keras.utils.PyDataset)
    x = named.get("x")
    if isinstance(x, batched) or not hasattr(tf.nest.flatten(x)[0], "shape"):
        return None
    return named.get("batch_size") or _KERAS_BATCH_SIZE


_KERAS_BATCH_SIZE = 32  # What Keras takes where `batch_size` is None.
_FIT_ARGUMENTS = (
    "x",
    "y",
    "batch_size",
    "epochs",
    "verbose",
    "callbacks",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "initial_epoch",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)


def verbosity(strategy: ClusterStrategy, verbose: Any) -> Any:
    """One progress bar for the job, not one per worker, unless asked for."""
    return 0 if verbose == "auto" and strategy.rank != 0 else verbose


def with_callback(callbacks: Any, callback: keras.callbacks.Callback, model: Any) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callback.set_model(model)
        callbacks.append(callback)
        return callbacks
    given = [] if callbacks is None else callbacks
    return [callback, *(given if isinstance(given, (list, tuple)) else [given])]


def evaluate(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = among_others(self.distribute_strategy)
        if strategy is not None and len(args) < 4:
            kwargs["verbose"] = verbosity(strategy, kwargs.get("verbose", "auto"))
        return original(self, *args, **kwargs)

    return evaluate


def symbolic_build(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keras averages the first batch over all replicas only to have its shapes."""

    def symbolic_build(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = among_others(self.distribute_strategy)
        if strategy is None:
            return original(self, *args, **kwargs)
        with strategy.extended.reductions.shapes_only():
            return original(self, *args, **kwargs)

    return symbolic_build


def metrics_result(original: Callable[..., Any]) -> Callable[..., Any]:
    def metrics_result(self: Any, logs: Any) -> Any:
        strategy = among_others(self.distribute_strategy)
        if strategy is None:
            return original(self, logs)
        return results_of_all(strategy, self, logs, lambda logs: original(self, logs))

    return metrics_result
