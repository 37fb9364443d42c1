"""Metrics, history and what callbacks do with them: those of one process, on every worker."""

from __future__ import annotations

from typing import Any

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
