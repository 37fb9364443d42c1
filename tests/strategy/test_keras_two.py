"""Where `tf.keras` is Keras 2, models of Keras 3 train as ever; those of Keras 2 are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes
LEGACY = {"TF_USE_LEGACY_KERAS": "1"}  # As a launcher sets it, such as Ray's.


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_alone("keras_two.py", environ=LEGACY)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    with Job("keras_two.py", environ=LEGACY) as job:
        return job.results()


def test_a_model_of_keras_3_trains_as_in_one_process(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """With the variable set, which makes `tf.keras` Keras 2."""
    assert found[0]["tf.keras"].startswith("tf_keras.")
    assert found[0]["keras-three"] == found[1]["keras-three"]
    assert_close(found[0]["keras-three"], alone["keras-three"])


@pytest.mark.parametrize("what", ["model", "optimizer", "legacy-optimizer", "lazily-built"])
def test_what_keras_2_builds_in_the_scope_is_refused_in_one_sentence(
    alone: dict[str, Any], found: list[dict[str, Any]], what: str
) -> None:
    """On every worker, and where one trains alone; also a model that has no weights yet."""
    for process in (alone, *found):
        text = process[what]
        assert text.startswith("ConfigError: ")
        assert text.count("PoseidonStrategy trains models of Keras 3, and ") == 1
        assert "is one of Keras 2 (tf_keras); build model and optimizer with `import keras`" in text


def test_a_metric_of_keras_2_counts(alone: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """It is no part of a model; a lone read gives this worker's own value."""
    assert [process["metric"] for process in (alone, *found)] == [3.0, 3.0, 3.0]


def test_outside_of_the_scope_keras_2_is_left_alone(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """Each process trains its own model on all of the data."""
    for worker in found:
        assert worker["outside"] == alone["outside"]
