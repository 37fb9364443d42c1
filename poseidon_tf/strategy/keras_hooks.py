"""What Keras does not ask of a strategy and a cluster needs: hooks around seven of its methods.

Each acts only under a PoseidonStrategy and otherwise calls what was there before.

- The optimizer's update: gradients are summed here, where their variables are known.
- The optimizer's clipping: it waits for the sums.
- The loss-scale optimizer: overflow is looked for in the sums, so that all workers agree.
- `fit`: the workers start from the same values, and only rank 0 draws a progress bar.
- `evaluate`, `fit`: metrics are summed where all workers read them, at the end of an epoch.
- `predict`: every worker gets all rows, in the dataset's order.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.strategy import ClusterStrategy


def install() -> None:
    """Put the hooks in place; a second call changes nothing."""
    trainer = tf_internals.TensorFlowTrainer
    tf_internals.replace_method(tf_internals.TFOptimizer, "_backend_update_step", _update_step)
    tf_internals.replace_method(tf_internals.TFOptimizer, "_clip_gradients", _clip_gradients)
    tf_internals.replace_method(tf_internals.LossScaleOptimizer, "_tf_apply", _loss_scale_step)
    tf_internals.replace_method(trainer, "fit", _fit)
    tf_internals.replace_method(trainer, "evaluate", _evaluate)
    tf_internals.replace_method(trainer, "predict", _predict)
    tf_internals.replace_method(trainer, "_get_metrics_result_or_logs", _metrics_result)


def _cluster_strategy(strategy: Any) -> ClusterStrategy | None:
    """`strategy` if it is ours and there are other workers."""
    is_ours = isinstance(strategy, ClusterStrategy) and strategy.num_workers > 1
    return strategy if is_ours else None


def _strategy_that_sums() -> ClusterStrategy | None:
    """The strategy in a replica whose gradients have not been summed yet."""
    strategy = _cluster_strategy(tf.distribute.get_strategy())
    if strategy is None or strategy.extended.has_sums:
        return None
    return None if tf.distribute.in_cross_replica_context() else strategy


def _summed(
    strategy: ClusterStrategy, optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]
) -> list[Any]:
    """`grads` summed over all workers; None stays None."""
    present = [at for at, gradient in enumerate(grads) if gradient is not None]
    summed = list(grads)
    if present and tf_internals.is_tracing_for_real():
        totals = strategy.sum_gradients(
            optimizer, [grads[at] for at in present], [variables[at] for at in present]
        )
        for at, total in zip(present, totals, strict=True):
            summed[at] = total
    return summed


def _update_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_step(
        self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> Any:
        strategy = _strategy_that_sums()
        if strategy is None:
            return original(self, grads, trainable_variables, learning_rate)
        summed = _summed(strategy, self, grads, trainable_variables)
        with strategy.extended.sums_done():
            if strategy.clips_sums:
                summed = self._clip_gradients(summed)
            updated = original(self, summed, trainable_variables, learning_rate)
        if tf_internals.is_tracing_for_real():
            pairs = zip(grads, trainable_variables, strict=True)
            strategy.record_applied([v for gradient, v in pairs if gradient is not None])
        return updated

    return update_step


def _clip_gradients(original: Callable[..., Any]) -> Callable[..., Any]:
    """Clips sums, as one process on the joined batch does, not each worker's share before."""

    def clip_gradients(self: Any, grads: Sequence[Any]) -> Any:
        strategy = _strategy_that_sums()
        if strategy is not None and strategy.clips_sums:
            return grads  # Their turn comes when they have been summed.
        return original(self, grads)

    return clip_gradients


def _loss_scale_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """Sums before Keras looks for overflow: one worker's infinity is then everybody's.

    Keras looks at the local gradients, and a worker that skips its step alone would leave the
    others waiting for it.
    """

    def loss_scale_step(
        self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None
    ) -> Any:
        strategy = _strategy_that_sums()
        if strategy is None:
            return original(self, grads, trainable_variables)
        variables = trainable_variables or self._trainable_variables
        summed = _summed(strategy, self, grads, variables)
        with strategy.extended.sums_done():
            return original(self, summed, trainable_variables)

    return loss_scale_step


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


def _fit(original: Callable[..., Any]) -> Callable[..., Any]:
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = _cluster_strategy(self.distribute_strategy)
        if strategy is None:
            return original(self, *args, **kwargs)
        if self.jit_compile is True:
            raise ConfigError(
                "jit_compile=True compiles the whole step into one piece, from which no gradient "
                "can leave early; compile the model with jit_compile=False under PoseidonStrategy"
            )
        # fit(x, y, batch_size, epochs, verbose, callbacks, ...)
        named = dict(zip(_FIT_ARGUMENTS, args, strict=False)) | kwargs
        named["verbose"] = _verbosity(strategy, named.get("verbose", "auto"))
        named["callbacks"] = _with_callback(named.get("callbacks"), _FirstValues(strategy), self)
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


def _verbosity(strategy: ClusterStrategy, verbose: Any) -> Any:
    """One progress bar for the job, not one per worker, unless asked for."""
    return 0 if verbose == "auto" and strategy.rank != 0 else verbose


def _with_callback(callbacks: Any, callback: keras.callbacks.Callback, model: Any) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callback.set_model(model)
        callbacks.append(callback)
        return callbacks
    given = [] if callbacks is None else callbacks
    return [callback, *(given if isinstance(given, (list, tuple)) else [given])]


def _evaluate(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = _cluster_strategy(self.distribute_strategy)
        if strategy is not None and len(args) < 4:
            kwargs["verbose"] = _verbosity(strategy, kwargs.get("verbose", "auto"))
        return original(self, *args, **kwargs)

    return evaluate


def _metrics_result(original: Callable[..., Any]) -> Callable[..., Any]:
    def metrics_result(self: Any, logs: Any) -> Any:
        strategy = _cluster_strategy(self.distribute_strategy)
        if strategy is None:
            return original(self, logs)
        with strategy.extended.reading_together():
            return original(self, logs)

    return metrics_result


class _RowCounts(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes how many rows each batch of a prediction has on this worker."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras has flattened a dict of outputs by now, and made a float of a lone value.
        output = tf.nest.flatten(logs)[0]
        self.rows.append(int(output.shape[0]) if hasattr(output, "shape") else 1)


def _predict(original: Callable[..., Any]) -> Callable[..., Any]:
    def predict(
        self: Any,
        x: Any,
        batch_size: Any = None,
        verbose: Any = "auto",
        steps: Any = None,
        callbacks: Any = None,
    ) -> Any:
        strategy = _cluster_strategy(self.distribute_strategy)
        if strategy is None:
            return original(self, x, batch_size, verbose, steps, callbacks)
        counts = _RowCounts()
        # Several steps in one execution come back as one batch, in which ranks cannot take turns.
        steps_per_execution, self.steps_per_execution = self.steps_per_execution, 1
        try:
            own = original(
                self,
                x,
                batch_size=batch_size,
                verbose=_verbosity(strategy, verbose),
                steps=steps,
                callbacks=_with_callback(callbacks, counts, self),
            )
        finally:
            self.steps_per_execution = steps_per_execution
        own_rows = np.asarray(counts.rows, np.int64)
        rows = [
            np.frombuffer(part, np.int64)
            for part in strategy.gather_bytes("rows predicted", own_rows.tobytes())
        ]
        return tf.nest.map_structure(lambda array: _in_order(strategy, array, rows), own)

    return predict


def _in_order(strategy: ClusterStrategy, own: Any, rows: Sequence[Any]) -> Any:
    """All workers' rows: batch after batch, and in each batch rank after rank."""
    stream = io.BytesIO()
    np.save(stream, np.asarray(own), allow_pickle=False)
    shares = [
        np.split(np.load(io.BytesIO(part), allow_pickle=False), np.cumsum(rows[rank])[:-1])
        for rank, part in enumerate(strategy.gather_bytes("prediction", stream.getvalue()))
    ]
    num_batches = max(len(share) for share in shares)
    return np.concatenate(
        [share[batch] for batch in range(num_batches) for share in shares if batch < len(share)]
    )
