"""A callback that stops one worker stops all, after the same step, and nobody hangs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

# What each case ends with: steps taken, and epochs.
STOPS = {
    "all": (4, 1),  # As one process.
    "last-rank": (5, 1),  # The others may have begun one more, so all take it.
    "rank-0": (5, 1),
    "last-step": (8, 1),
    "epoch-end": (8, 1),
    "validation": (8, 1),
    "before": (4, 1),
    "several-steps": (6, 1),  # One more execution.
    "eager": (5, 1),
    "nan": (3, 1),  # The last rank's loss is NaN in step 2, the others' in step 3.
    "evaluating": (5, 1),
    "undisturbed": (16, 2),
}


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Where each worker stopped in each case."""
    with Job("stopping.py", num_workers=request.param) as job:
        return job.results(timeout_s=240)


@pytest.mark.parametrize("case", STOPS)
def test_all_workers_stop_after_the_same_step(found: list[dict[str, Any]], case: str) -> None:
    """With the same weights; a sole wish costs one more execution, a common one none."""
    stopped = [(worker[case]["steps"], worker[case]["epochs"]) for worker in found]
    assert stopped == [STOPS[case]] * len(found)
    assert len({worker[case]["digest"] for worker in found}) == 1


def test_workers_that_run_ahead_of_each_other_stop_at_the_same_step(
    found: list[dict[str, Any]],
) -> None:
    """Steps that only accumulate exchange nothing; who is ahead is not called back."""
    steps = [worker["accumulation"]["steps"] for worker in found]
    assert len(set(steps)) == 1 and 4 <= steps[0] <= 8
    assert len({worker["accumulation"]["digest"] for worker in found}) == 1


def test_two_of_three_workers_stop_all(found: list[dict[str, Any]]) -> None:
    """Of two workers it is one."""
    assert {worker["two-ranks"]["steps"] for worker in found} == {5}


def test_the_model_gets_its_training_function_back(found: list[dict[str, Any]]) -> None:
    """What agrees on stops is there within `fit` only."""
    assert not any(worker[case]["kept"] for worker in found for case in STOPS)


def test_one_process_stops_where_all_workers_stop_that_want_to() -> None:
    """A wish of all costs no execution."""
    assert run_alone("stopping.py")["all"]["steps"] == 4


@pytest.mark.parametrize(
    "what, says",
    [
        ("epochs", "epochs is 2 on rank 0 and 3 on rank 1; give all workers the same"),
        ("rows", "fit was given other rows of x on rank 0 and on rank 1. The workers share arrays"),
    ],
)
def test_different_arguments_of_fit_are_refused_before_the_first_step(what: str, says: str) -> None:
    """On every worker, naming the argument, and what is different."""
    with Job("stopping.py", what) as job:
        codes = job.wait(timeout_s=240)
        outputs = [worker.output() for worker in job.workers]
    assert all(codes[:2])
    for output in outputs:
        assert says in output
        assert "RESULT never" not in output
