"""Metrics of all workers: what each has counted, joined in one exchange at the end of an epoch.

All workers read together at the end of an epoch and of `evaluate`: there they are at the same
place. Anywhere else a read gives the worker's own value, since a lone read must wait for nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
      logs: what the last step returned on this worker; empty on all if there was none, and then
        every result is NaN.
      keras_results: from `logs` to what Keras takes for the epoch's: the results of the model's
        metrics, or `logs` where their names are not the metrics'.
    """
    variables = [variable for metric in model.metrics for variable in metric.variables]
    numbers, beside = _logs_beside_metrics(model, variables, logs)
    mine = [*map(_own_value, variables), _packed(numbers), _packed(beside), *numbers.values()]
    everyone = [arrays.unpack(part) for part in runtime.worker.gather(_END, arrays.pack(mine))]
    if logs == {}:  # All batches of the epoch were done before the job was started again.
        return dict.fromkeys(model.get_metrics_result(), math.nan)
    counted = [part[: len(variables)] for part in everyone]
    totals = [
        _joined(v.aggregation, each)
        for v, each in zip(variables, zip(*counted, strict=True), strict=True)
    ]
    means = _means([part[len(variables) :] for part in everyone])
    # The variables keep the worker's own values: they go on counting this worker's samples.
    with keras.StatelessScope(state_mapping=list(zip(variables, totals, strict=True))):
        results = keras_results(logs)
        if results is not logs or not isinstance(logs, dict):
            return _values_of(results)
        results = _values_of(model.get_metrics_result())
        return logs | {n: v for n, v in results.items() if n in logs} | means


def _logs_beside_metrics(
    model: Any, variables: Sequence[Any], logs: Any
) -> tuple[dict[str, Any], list[str]]:
    """The worker's own logs that are numbers, and which of them are no results of its metrics."""
    if not isinstance(logs, dict) or model.get_metrics_result().keys() == logs.keys():
        return {}, []
    values = {name: np.asarray(value) for name, value in logs.items()}
    numbers = {n: value for n, value in values.items() if np.issubdtype(value.dtype, np.number)}
    results = _results_of_replicas(model, variables)
    return numbers, [
        name
        for name, value in numbers.items()
        if not (name in results[0] and _is_mean(value, [each[name] for each in results]))
    ]


def _results_of_replicas(model: Any, variables: Sequence[Any]) -> list[dict[str, Any]]:
    """What each of the worker's replicas would give; Keras takes the mean for the step's."""
    by_replica = zip(*(tf_internals.components(variable) for variable in variables), strict=True)
    found = []
    for replica in by_replica:
        own = [(v, part.read_value()) for v, part in zip(variables, replica, strict=True)]
        with keras.StatelessScope(state_mapping=own):
            found.append(_values_of(model.get_metrics_result()))
    return found or [{}]


def _is_mean(value: Any, results: Sequence[Any]) -> bool:
    """But for rounding, which is another for each order in which replicas are added."""
    mean = np.mean([np.asarray(each) for each in results], axis=0)
    return value.shape == mean.shape and np.allclose(value, mean, rtol=1e-5, atol=1e-7)


def _means(everyone: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Of what rank 0 has found beside its metrics, and all workers have."""
    by_name = [dict(zip(_unpacked(names), own, strict=True)) for names, _, *own in everyone]
    return {
        name: _joined("mean", [own[name] for own in by_name])
        for name in _unpacked(everyone[0][1])
        if all(name in own for own in by_name)
    }


def _packed(names: Iterable[str]) -> Any:
    return np.frombuffer("\n".join(names).encode(), np.uint8)


def _unpacked(names: Any) -> list[str]:
    return names.tobytes().decode().split("\n") if names.size else []


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
