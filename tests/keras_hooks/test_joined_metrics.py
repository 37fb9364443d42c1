"""The logs of an epoch are joined by their names, whatever rounding says of one worker's."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest

from poseidon_tf.keras_hooks.metrics import results_of_all
from poseidon_tf.strategy.runtime import Runtime


class Counting(keras.Model):
    """A model with one metric of its own, which has counted."""

    def __init__(self, counted: list[float]) -> None:
        super().__init__()
        self.error = keras.metrics.Mean(name="error")
        self.error.update_state(counted)

    @property
    def metrics(self) -> list[Any]:
        return [self.error]


class _Told(Exception):
    """What a worker tells the others."""


def of_both(logs: list[dict[str, Any]], counted: list[list[float]]) -> list[dict[str, float]]:
    """What each of two workers makes of its logs."""

    def joined(gather: Any) -> Iterator[Any]:
        runtime = cast(Runtime, SimpleNamespace(worker=SimpleNamespace(gather=gather)))
        for own, model in zip(logs, models, strict=True):
            try:
                yield results_of_all(runtime, model, own, lambda each: each)
            except _Told as told:
                yield told.args[0]

    def tell(what: str, part: bytes) -> Any:
        raise _Told(part)

    models = [Counting(each) for each in counted]
    parts = list(joined(tell))
    found = joined(lambda what, part: parts)
    return [{name: float(value) for name, value in each.items()} for each in found]


@pytest.mark.tensorflow
def test_a_metric_is_one_on_all_workers_whatever_rounding_says() -> None:
    """One worker's log of it differs in its last bit from what its metric gives."""
    rounded = float(np.nextafter(np.float32(0.3), np.float32(1)))
    logs = [{"error": np.float32(0.1), "extra": 1.0}, {"error": np.float32(rounded), "extra": 3.0}]
    found = of_both(logs, [[0.1], [0.3, 0.3, 0.3]])
    assert found == [{"error": pytest.approx(0.25), "extra": 2.0}] * 2


@pytest.mark.tensorflow
def test_a_number_under_the_name_of_a_metric_is_a_mean_over_workers() -> None:
    """Rank 0 says so for all, also where the other's happens to be what its metric gives."""
    logs = [{"error": 5.0, "extra": 1.0}, {"error": np.float32(0.3), "extra": 3.0}]
    found = of_both(logs, [[0.1], [0.3]])
    assert found == [{"error": pytest.approx(2.65), "extra": 2.0}] * 2


@pytest.mark.tensorflow
def test_what_one_worker_alone_has_is_its_own() -> None:
    """There is nothing to take the mean of."""
    logs: list[dict[str, Any]] = [{"extra": 1.0, "mine": 7.0}, {"extra": 3.0}]
    assert of_both(logs, [[0.1], [0.3]]) == [{"extra": 2.0, "mine": 7.0}, {"extra": 2.0}]


@pytest.mark.tensorflow
def test_an_epoch_of_which_no_batch_is_left_has_no_figures() -> None:
    """A job that goes on there gives callbacks all names, of which none has a value."""
    nan = pytest.approx(np.nan, nan_ok=True)
    assert of_both([{}, {}], [[0.1], [0.3]]) == [{"error": nan}] * 2
