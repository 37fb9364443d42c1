"""Every way to run `fit`, and to build models for it: the weights are those of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

CASES = [
    "two-steps",
    "three-of-four-steps",
    "eager",
    "eager-two-steps",
    "again",
    "on-batch",
    "PyDataset",
    "generator",
    "lazy",
    "gan",
    "inside",
]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process ends with."""
    return run_alone("kinds_of_fit.py")


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each worker ends with."""
    with Job("kinds_of_fit.py", num_workers=request.param) as job:
        return job.results(timeout_s=240)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_losses_are_those_of_one_process(
    alone: dict[str, Any], found: list[dict[str, Any]], case: str
) -> None:
    """And equal bit for bit on all workers."""
    assert all(worker[case] == found[0][case] for worker in found)
    for what in ("weights", "losses"):
        assert_close(found[0][case][what], alone[case][what])


def test_what_train_on_batch_returns_is_about_each_workers_own_share(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """The mean over workers is what one process returns for the joined batch."""
    own = np.array([worker["on-batch-logs"] for worker in found])
    assert_close(own.mean(axis=0).tolist(), alone["on-batch-logs"])
    assert not np.allclose(own[0], own[1])


@pytest.mark.parametrize("case", ["PyDataset", "generator"])
def test_no_step_writes_into_the_users_arrays(found: list[dict[str, Any]], case: str) -> None:
    """TensorFlow reads some of them where they are, and computes in place."""
    assert all(worker[f"{case}-unchanged"] for worker in found)


def test_layers_that_are_frozen_keep_their_values(found: list[dict[str, Any]]) -> None:
    """The other set of variables is agreed on, and the old one's routes serve again."""
    assert all(worker["again"]["unchanged"] for worker in found)


def test_another_optimizer_needs_no_new_plan(found: list[dict[str, Any]]) -> None:
    """Routes belong to variables, which a new `compile` does not change."""
    assert all(worker["routes-kept"] for worker in found)


def test_an_optimizer_from_outside_of_the_scope_is_refused_in_a_sentence(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """One process hears the same."""
    for worker in (alone, *found):
        assert "was created outside of the strategy's scope" in worker["optimizer-outside"]
