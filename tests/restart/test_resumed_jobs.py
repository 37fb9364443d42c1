"""A job that is started again goes on after the batch of its last backup, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job
from tests.support.supervised import run_supervised

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]
TIMEOUT_S = 400.0
# When a process of the job is killed in the `fit` on each kind of data; see the script.
MOMENTS = {
    "tf.data": "first-epoch+validation",
    "arrays": "saving",
    "PyDataset": "between",
    "repeated": "epoch-end",
    "generator": "between",
}
MORE_MOMENTS = {
    "arrays": "first-epoch+between+validation+after-epoch",
    "PyDataset": "saving+epoch-end+after-epoch",
    "tf.data": "saving+between",
    "voted": "between",
    "cached": "validation",
    "function": "first-epoch",
    "own": "between",
    "several-steps": "epoch-end",
    "half": "between",
    "accumulated": "between",
}
EPOCHS, BATCHES = 3, 5


@dataclass
class Ended:
    """How a job came to its end.

    Attributes:
      workers: by rank, what each worker said.
      trained: by kind of data, (epoch, batch) of every batch that a run of rank 0 has trained on.
      died: what kind of data it read each time that a process was killed.
      output: of rank 0, in its last run.
    """

    workers: list[dict[str, Any]]
    trained: dict[str, list[tuple[int, int]]]
    died: list[str]
    output: str


def ended(folder: Path, moments: Mapping[str, str]) -> Ended:
    """A job that has trained on each kind of data, and was started again after each kill."""
    died = [kind for kind, each in moments.items() for _ in each.split("+") if each]
    cases = [f"{kind}={each}" for kind, each in moments.items()]
    with Job("resumed.py", str(folder), *cases, num_servers=0) as job:
        restarted = run_supervised(job, timeout_s=TIMEOUT_S)
        assert sorted(restarted) == ["worker 0"] * len(died) + ["worker 1"] * len(died)
        workers, output = [each.results() for each in job.workers], job.workers[0].output()
    batches = {kind: trained(folder / f"trained-{kind}") for kind in moments}
    return Ended(workers, batches, died, output)


def trained(path: Path) -> list[tuple[int, int]]:
    """The epoch and the number of every batch."""
    lines = map(str.split, path.read_text().splitlines())
    return [(int(epoch), int(batch)) for epoch, batch in lines]


Pair = tuple[Ended, Ended]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({kind: MOMENTS[kind] for kind in ("arrays", "generator")}, id="few"),
        pytest.param(
            MOMENTS, id="at-five-moments", marks=[pytest.mark.thorough, pytest.mark.timeout(600)]
        ),
        pytest.param(
            MORE_MOMENTS, id="more", marks=[pytest.mark.thorough, pytest.mark.timeout(600)]
        ),
    ],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A job in which nobody dies, and one of which a process is killed again and again."""
    folders = [tmp_path_factory.mktemp(name) for name in ("undisturbed", "killed")]
    return ended(folders[0], dict.fromkeys(request.param, "")), ended(folders[1], request.param)


BEGUN_ANEW = {"generator", "accumulated"}


def test_it_ends_with_the_bits_of_a_job_in_which_nobody_died(pair: Pair) -> None:
    """On both workers: weights, states of random generators and the optimizer's."""
    undisturbed, killed = pair
    for kind in undisturbed.trained.keys() - BEGUN_ANEW:
        digests = {job[kind] for job in (*undisturbed.workers, *killed.workers)}
        assert len(digests) == 1, kind


def test_the_next_fit_of_the_model_begins_with_its_first_epoch(pair: Pair) -> None:
    """Not with that in which the one before was taken up again."""
    for job in pair:
        for kind, worker in itertools.product(job.trained, job.workers):
            assert worker[f"following-{kind}"] == [0], kind


def test_no_batch_is_done_again_that_a_backup_has(pair: Pair) -> None:
    """For each kill one at most was done after the last backup, which is written every second."""
    undisturbed, killed = pair
    for kind in undisturbed.trained.keys() - BEGUN_ANEW:
        before = undisturbed.trained[kind]
        assert sorted(set(before)) == before
        if kind != "several-steps":
            assert before == [(e, b) for e in range(EPOCHS) for b in range(BATCHES)]
        assert set(killed.trained[kind]) <= set(before)
        num_kills = killed.died.count(kind)
        assert len(killed.trained[kind]) <= len(before) + num_kills, kind


def test_an_epoch_of_a_generator_begins_anew_and_the_log_says_so(pair: Pair) -> None:
    """It has no place to which it could go back."""
    undisturbed, killed = pair
    for kind in undisturbed.trained.keys() & BEGUN_ANEW:
        assert killed.trained[kind].count((1, 0)) == 2
        assert killed.trained[kind].count((0, 0)) == 1
    assert "the backup was written after batch 3 of epoch 1, and fit begins that epoch anew: " in (
        killed.output
    )
