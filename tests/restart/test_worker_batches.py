"""`on_resize="keep_worker_batch"`: a job goes on with another number of workers, of the same batch
each, and another learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
# How many workers, and after which batch all of them stop.
SCHEDULE = [(3, "0,3"), (2, "end")]
# Also once more in the same epoch, in the next one in the new batches, and back to as many.
LONG_SCHEDULE = [(3, "0,3"), (2, "0,4"), (2, "1,1"), (2, "1,4"), (3, "end")]


@dataclass
class Ended:
    """What the workers of each job have said, the output of its rank 0, and one process."""

    jobs: list[tuple[list[dict[str, Any]], str]]
    alone: dict[str, Any]
    kinds: list[str]
    ends_with: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SCHEDULE, "arrays", "12+8+8"), id="fewer"),
        pytest.param(
            (LONG_SCHEDULE, "fixed+scaled+arrays", "12+8+12"),
            id="and-back",
            marks=pytest.mark.thorough,
        ),
    ],
)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Jobs that follow each other, and the same batches of all workers in one process."""
    schedule, kinds, batches = request.param
    folder, jobs = str(tmp_path_factory.mktemp("backups")), []
    for num_workers, until in schedule:
        args = ("worker_batches.py", folder, kinds, until)
        with Job(*args, num_workers=num_workers, num_servers=0) as job:
            jobs.append((job.results(timeout_s=240), job.workers[0].output()))
    folder = str(tmp_path_factory.mktemp("alone"))
    alone = run_alone("worker_batches.py", folder, kinds, "alone", batches, timeout_s=240)
    return Ended(jobs, alone, kinds.split("+"), schedule[-1][0])


def test_each_sample_is_trained_on_once_in_each_epoch(ended: Ended) -> None:
    """Also in those in which the number of workers changed."""
    for kind in ended.kinds:
        each = [said[0][f"seen-{kind}"] for said, _ in ended.jobs]
        seen = {int(epoch): counts for one in each for epoch, counts in one.items()}
        assert seen == {0: [1.0, 1.0], 1: [2.0, 2.0], 2: [3.0, 3.0]}, kind


def test_the_learning_rate_changes_with_the_batch_of_all(ended: Ended) -> None:
    """At the end of the epoch in which the number of workers did, and once."""
    for kind in ended.kinds:
        for said, _ in ended.jobs:
            for epoch, rate in said[0][f"rates-{kind}"].items():
                assert rate == ended.alone[f"rates-{kind}"][epoch], kind


def test_the_weights_are_those_of_the_same_batches_in_one_process(ended: Ended) -> None:
    """The same on all workers, bit for bit."""
    said, _ = ended.jobs[-1]
    for kind in ended.kinds:
        found = [worker[f"weights-{kind}"] for worker in said]
        assert all(each == found[0] for each in found)
        for mine, expected in zip(found[0], ended.alone[f"weights-{kind}"], strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5, err_msg=kind)


def test_the_log_has_both_numbers(ended: Ended) -> None:
    """When `fit` goes on, and when batch and learning rate change; once for each `fit`."""
    outputs = [output for _, output in ended.jobs]
    lead = "fit goes on with 2 workers instead of 3, and keeps batches of 12 rows of all workers"
    assert outputs[1].count(f"{lead} together to the end of epoch 0") == len(ended.kinds)
    changed = (
        "from epoch 1 on batches of all workers have 8 rows instead of 12, 4 of each worker, "
        "and the learning rate is 0.666667 instead of 1"
    )
    assert sum(output.count(changed) for output in outputs) == len(ended.kinds)
    back = "from epoch 2 on batches of all workers have 12 rows instead of 8"
    assert outputs[-1].count(back) == (len(ended.kinds) if ended.ends_with == 3 else 0)
