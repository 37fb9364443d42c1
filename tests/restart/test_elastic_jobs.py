"""`poseidon-tf run --workers MIN:MAX`: a job loses a worker in mid-epoch, and gets it back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import launched
from tests.support.jobs import run_alone, script_named

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
EPOCHS = 3


@dataclass
class Run:
    """Of a job: what the launcher has said, and each worker, in the order in which they did."""

    launcher: list[str]
    workers: list[dict[str, list[Any]]]


@pytest.fixture(scope="module", params=[3, pytest.param(2, marks=pytest.mark.thorough)])
def most(request: pytest.FixtureRequest) -> int:
    """Workers of the job; then one fewer are left, of two a lone one."""
    return int(request.param)


@pytest.fixture(scope="module")
def job(most: int, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("backups")
    done = launched.run(
        *("run", "--workers", f"{most - 1}:{most}", "--max-restarts", "3"),
        *(str(script_named("elastic.py")), str(folder)),
        environ={"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "4"},
        timeout_s=400,
    )
    assert done.code == 0, done.stdout + done.stderr
    lead = "[poseidon-tf] "
    lines = [line for line in done.stderr.splitlines() if line.startswith(lead)]
    said = [line.removeprefix(lead) for line in lines]
    return Run(said, [results(done.stdout, f"[worker {rank}] RESULT ") for rank in range(most)])


def results(output: str, lead: str) -> dict[str, list[Any]]:
    """By name, what a worker has said in one try after the other."""
    found: dict[str, list[Any]] = {}
    for line in output.splitlines():
        if line.startswith(lead):
            name, value = line.removeprefix(lead).split(" ", 1)
            found.setdefault(name, []).append(json.loads(value))
    return found


def test_it_goes_on_with_those_that_are_left_and_then_with_all_again(job: Run, most: int) -> None:
    """The launcher says what it does, and one restart of three is used."""
    *left, lost = [worker["started"] for worker in job.workers]
    assert left == [[most, most - 1, most]] * (most - 1) and lost == [most, most]
    does = [line for line in job.launcher if "again" in line or "SIGUSR1" in line]
    assert does == [
        f"worker {most - 1} was killed by signal 9; "
        f"starting again with {most - 1} of {most} workers (try 2 of 4)",
        f"SIGUSR1: sending SIGTERM to {', '.join(f'worker {rank}' for rank in range(most - 1))}",
        f"SIGUSR1 came; starting again with {most} of {most} workers (try 2 of 4)",
    ]


def test_each_sample_is_trained_on_once_in_each_epoch(job: Run) -> None:
    """In the epochs in which the number of workers changed too, and whether or not the script has
    a seed: the launcher gives the job one."""
    for worker in job.workers:
        for seen in worker["seen"]:
            for epoch, counts in seen.items():
                assert counts == [int(epoch) + 1.0] * 2
    assert "2" in job.workers[0]["seen"][-1]


def test_the_weights_are_those_of_the_same_batches_in_one_process(job: Run, tmp_path: Path) -> None:
    """On all workers the same bits. Nothing is seeded but by the launcher, once for all tries."""
    (seed,) = {seed for worker in job.workers for seed in worker["seed"]}
    alone = run_alone(
        "elastic.py", str(tmp_path), "alone", environ={"POSEIDON_SEED": seed}, timeout_s=240
    )
    assert alone["seen"]["2"] == [3.0, 3.0]
    found = [worker["weights"] for worker in job.workers]
    assert all(each == found[0] for each in found) and len(found[0]) == 1
    for mine, expected in zip(found[0][0], alone["weights"], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
