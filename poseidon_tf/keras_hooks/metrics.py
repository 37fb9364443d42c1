"""Metrics of all workers: what each has counted, joined in one exchange at the end of an epoch.

All workers read together at the end of an epoch and of `evaluate`: there they are at the same
place. Anywhere else a read gives the worker's own value, since a lone read must wait for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.wire import arrays

# What a worker has to do that the others wait for here.
_END = "end the epoch of fit, or evaluate, and join its metrics"


def results_of_all(
    runtime: Runtime, model: Any, logs: Any, keras_results: Callable[[Any], Any]
) -> Any:
    """The logs of an epoch, equal on all workers, which call it together.

    A log that is a metric's result becomes the result over all workers' samples. Any other is what
    a `train_step` or `test_step` of the user's returned last, and becomes the mean over workers.

    Args:
      logs: what the last step returned on this worker.
      keras_results: from `logs` to what Keras takes for the epoch's: the results of the model's
        metrics, or `logs` where their names are not the metrics'.
    """
    variables = [variable for metric in model.metrics for variable in metric.variables]
    others = _logs_beside_metrics(model, logs)
    mine = [*map(_own_value, variables), *others.values()]
    everyone = [arrays.unpack(part) for part in runtime.worker.gather(_END, arrays.pack(mine))]
    by_value = list(zip(*everyone, strict=True))
    totals = [_joined(v.aggregation, each) for v, each in zip(variables, by_value, strict=False)]
    means = dict(
        zip(others, (_joined("mean", each) for each in by_value[len(variables) :]), strict=True)
    )
    # The variables keep the worker's own values: they go on counting this worker's samples.
    with keras.StatelessScope(state_mapping=list(zip(variables, totals, strict=True))):
        results = keras_results(logs)
        if results is not logs or not isinstance(logs, dict):
            return _values_of(results)
        results = _values_of(model.get_metrics_result())
        return logs | {n: v for n, v in results.items() if n in logs} | means


def _logs_beside_metrics(model: Any, logs: Any) -> dict[str, Any]:
    """Those of the worker's own logs that are numbers and no results of its metrics."""
    if not isinstance(logs, dict):
        return {}
    results = model.get_metrics_result()
    if results.keys() == logs.keys():
        return {}
    values = {name: np.asarray(value) for name, value in logs.items()}
    return {
        name: value
        for name, value in values.items()
        if np.issubdtype(value.dtype, np.number)
        and not (name in results and np.array_equal(value, np.asarray(results[name])))
    }


def _values_of(results: Any) -> Any:
    """`results`, of which a variable itself would be this worker's own outside of the scope."""
    if not isinstance(results, dict):
        return results
    return {n: v.value if isinstance(v, keras.Variable) else v for n, v in results.items()}


def _own_value(variable: Any) -> Any:
    """What this worker has counted."""
    values = [np.asarray(part.read_value()) for part in tf_internals.components(variable)]
    return _joined(variable.aggregation, values)


def _joined(aggregation: str, values: Sequence[Any]) -> Any:
    """One value of several, in rank order: the same bits on every worker."""
    if aggregation == "sum":
        return np.sum(values, axis=0, dtype=values[0].dtype)
    if aggregation == "mean":
        return np.mean(values, axis=0, dtype=values[0].dtype)
    return values[0]
