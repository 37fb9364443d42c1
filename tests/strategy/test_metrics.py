"""Metrics, history and what callbacks do with them: those of one process, on every worker."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds."""
    return run_alone("metrics.py")


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def job(request: pytest.FixtureRequest) -> tuple[list[dict[str, Any]], list[str]]:
    """What each worker finds, and all that it printed."""
    with Job("metrics.py", num_workers=request.param) as job:
        return job.results(timeout_s=240), [worker.output() for worker in job.workers]


@pytest.mark.parametrize(
    "name",
    [
        "kinds",
        "seen-by-a-callback",
        "evaluate",
        "outside",
        "own-step",
        "own-step-weights",
        "plateau",
        "scheduler",
        "schedule",
        "early",
        "early-weights",
    ],
)
def test_logs_are_those_of_one_process_and_equal_on_all_workers(
    job: Any, alone: dict[str, Any], name: str
) -> None:
    """Metrics that are no sums, several outputs, own steps, and callbacks that act on logs."""
    found, _ = job
    assert all(worker[name] == found[0][name] for worker in found)
    assert_close(found[0][name], alone[name])


def test_a_result_that_is_a_variable_is_that_of_all_workers(job: Any) -> None:
    """And not what this worker has counted."""
    found, _ = job
    assert [worker["rows"] for worker in found] == [48.0] * len(found)


def test_the_cases_do_what_they_are_there_for(alone: dict[str, Any]) -> None:
    """Training stops early, the rate falls, and validation is held in every second epoch."""
    assert len(alone["early"]["loss"]) < 8
    assert alone["plateau"]["learning_rate"][-1] < 0.9
    assert len(alone["kinds"]["val_loss"]) == 2 and len(alone["kinds"]["loss"]) == 4


def test_workers_that_train_by_batches_begin_and_end_alike(job: Any) -> None:
    """They drew other values, and BatchNormalization's statistics count as well."""
    found, _ = job
    assert all(worker["by-batches"] == found[0]["by-batches"] for worker in found)


def test_one_worker_may_test_and_predict_a_batch_alone(job: Any) -> None:
    """Nothing of it waits for another worker; the loss is that of the rows it was given."""
    found, _ = job
    assert found[0]["shape"] == [5, 1]
    assert_close(found[0]["of-a-batch"][0], found[0]["by-hand"])


def test_only_rank_0_draws_a_bar_unless_it_is_asked_for(job: Any) -> None:
    """`fit`, `evaluate` and `predict` say nothing on other ranks; `verbose=2` is a wish."""
    _, outputs = job
    for rank, output in enumerate(outputs):
        by_default, asked_for = output.split("BARS BEGIN")[1].split("BARS END")
        assert ("loss" in by_default) == (rank == 0)
        assert "loss" in asked_for


def test_what_is_printed_at_the_end_of_an_epoch_is_the_history(job: Any) -> None:
    """The bar of rank 0 and every worker's line, for all its values, to the digits that show."""
    found, outputs = job
    printed = [output.split("BARS BEGIN")[1].split("BARS END") for output in outputs]
    assert_shown(printed[0][0], shown_by_bar(found[0]))
    for worker, (_, asked_for) in zip(found, printed, strict=True):
        assert_shown(asked_for, worker["shown-as-asked"])


def shown_by_bar(worker: dict[str, Any]) -> dict[str, list[float]]:
    """The history; in the bar of Keras before 3.15, its mean with what the batches showed."""
    history = dict(worker["shown-by-default"])
    if worker["bar-averages"]:
        for name in ("loss", "mae"):
            batches = [logs[name] for logs in worker["after-batches"]]
            history[name] = [(sum(batches) + history[name][0]) / (len(batches) + 1)]
    return history


def assert_shown(printed: str, history: dict[str, list[float]]) -> None:
    """The last line with scores of validation shows the one epoch of `history`."""
    line = [line for line in printed.splitlines() if " - val_loss: " in line][-1]
    shown = {name: float(value) for name, value in re.findall(r"(\w+): ([0-9.e+-]+)", line)}
    assert sorted(history) == ["loss", "mae", "val_loss", "val_mae"] == sorted(shown)
    for name, (value,) in history.items():
        np.testing.assert_allclose(shown[name], value, rtol=0, atol=0.6e-4, err_msg=name)


def test_what_is_seen_after_a_batch_is_the_workers_own(job: Any) -> None:
    """They differ between workers; with equal shares their mean is what the epoch is given."""
    found, _ = job
    last = [worker["after-batches"][-1]["loss"] for worker in found]
    assert len(set(last)) == len(last)
    assert_close(float(np.mean(last)), found[0]["shown-by-default"]["loss"][0])
