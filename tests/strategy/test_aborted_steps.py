"""A script that catches the error of a step and goes on never gets the sums of that step."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """What each worker has caught."""
    with Job("aborted_step.py", num_servers=1) as job:
        job.wait(timeout_s=200)
        return [worker.results() for worker in job.workers]


def test_in_a_custom_loop_the_next_step_says_what_came(found: list[dict[str, Any]]) -> None:
    """The worker whose step was ended hears it; the other one has the sum that it should have."""
    chief, worker = found
    assert "the batch is bad" in chief["loop"]
    assert (
        "is that of an earlier step: an error or Ctrl-C has ended that step"
        in (chief["loop_goes_on"])
    )
    assert worker["loop_goes_on"] == ""


def test_in_a_fit_that_defers_its_updates_the_job_ends(found: list[dict[str, Any]]) -> None:
    """Nobody trains on with the sums of a step that has no update."""
    for each in found:
        assert "the batch is bad" in each["fit"]
        assert (
            "failed after some of its gradients had left for the other workers"
            in (each["fit_goes_on"])
        )
