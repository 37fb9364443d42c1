"""A job goes on with another number of workers, in mid-epoch: 3, then 2, then 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

# By default an elastic job is proven by test_elastic_jobs.
pytestmark = [pytest.mark.processes, pytest.mark.thorough, pytest.mark.timeout(600)]
KINDS = ("fixed", "scaled", "arrays", "PyDataset")
# How many workers, and after which batch all of them stop.
SCHEDULE = [(3, "0,3"), (2, "1,1"), (3, "end")]
EPOCHS, BATCHES = 2, 5


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[dict[str, Any]], str]]:
    """Of each job, what its workers said, and the output of rank 0."""
    folder, found = tmp_path_factory.mktemp("backups"), []
    for num_workers, until in SCHEDULE:
        job = Job("resized.py", str(folder), until, num_workers=num_workers, num_servers=0)
        with job:
            found.append((job.results(timeout_s=240), job.workers[0].output()))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process on the joined batches."""
    return run_alone("resized.py", str(tmp_path_factory.mktemp("alone")), "alone", timeout_s=240)


Jobs = list[tuple[list[dict[str, Any]], str]]


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_trained_on_once_in_each_epoch(jobs: Jobs, kind: str) -> None:
    """Whatever the number of workers was, also in the epochs in which it changed."""
    seen = {int(epoch): each for said, _ in jobs for epoch, each in said[0][f"seen-{kind}"].items()}
    assert seen == {0: [1.0, 1.0], 1: [2.0, 2.0]}
    # Each job stopped in the middle, and the next one went on there.
    assert [said[0].get(f"stopped-{kind}") for said, _ in jobs] == [4, BATCHES + 2, None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_same_batches_in_one_process(
    jobs: Jobs, alone: dict[str, Any], kind: str
) -> None:
    """The same on all workers, bit for bit."""
    said, _ = jobs[-1]
    found = [worker[f"weights-{kind}"] for worker in said]
    assert found[0] == found[1] == found[2]
    for mine, expected in zip(found[0], alone[f"weights-{kind}"], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_the_log_says_what_is_kept(jobs: Jobs) -> None:
    """Once for each `fit`, on rank 0."""
    assert "fit goes on with" not in jobs[0][1]
    for (_, output), now, before in ((jobs[1], 2, 3), (jobs[2], 3, 2)):
        lead = f"fit goes on with {now} workers instead of {before}, and keeps "
        assert output.count(f"{lead}batches of 12 rows of all workers together") == 3
        assert output.count(f"{lead}its batches of all workers together") <= 1
        assert output.count(lead) == len(KINDS)
