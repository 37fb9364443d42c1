"""Data that ends elsewhere on every worker: all take the same steps and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

BATCH = 12
ROWS_OF_FILES = [17, 5, 26, 9]

Findings = list[dict[str, Any]]


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What each worker saw, by case."""
    folder: Path = tmp_path_factory.mktemp("ends")
    with Job("ends.py", str(folder), num_workers=request.param) as job:
        return job.results(timeout_s=400)


def samples(epoch: list[list[int]]) -> list[int]:
    return [sample for step in epoch for sample in step]


def everybodys(found: Findings, case: str, epoch: int) -> list[int]:
    """The samples of all workers, in order."""
    return sorted(s for worker in found for s in samples(worker[case]["seen"][epoch]))


FITS = [
    "off-equal",
    "off-uneven",
    "file",
    "file-three-steps-per-execution",
    "file-eagerly",
    "auto-of-files",
    "file-repeated",
    "file-steps",
    "filtered",
    "generator",
    "generator-steps",
    "uneven-generators",
    "PyDataset",
    "PyDataset-steps",
    "from-function",
    "endless-on-one-steps",
]


@pytest.mark.parametrize("case", FITS)
def test_epochs_end_at_the_same_step_and_scores_agree(found: Findings, case: str) -> None:
    """Whoever has run out takes empty batches, which spoil neither weights nor scores."""
    first = found[0][case]
    for worker in found:
        steps = [len(epoch) for epoch in worker[case]["seen"]]
        assert steps == [len(epoch) for epoch in first["seen"]]
        assert worker[case]["steps"] == first["steps"] >= sum(steps)
        assert worker[case]["history"] == first["history"]
        assert worker[case]["first_weights"] == first["first_weights"]
        assert worker[case]["is_finite"]
        values = [value for values in worker[case]["history"].values() for value in values]
        assert all(value == value for value in values), "not a number"


@pytest.mark.parametrize(
    "case", ["file", "file-three-steps-per-execution", "file-eagerly", "auto-of-files"]
)
def test_every_sample_of_every_file_is_used_once(found: Findings, case: str) -> None:
    """Files of different lengths give workers different numbers of batches."""
    assert any([] in worker[case]["seen"][0] for worker in found), "the files are too even"
    for epoch, _ in enumerate(found[0][case]["seen"]):
        assert everybodys(found, case, epoch) == list(range(sum(ROWS_OF_FILES)))


@pytest.mark.parametrize("case, number", [("generator", 7), ("PyDataset", 5)])
def test_workers_share_every_batch_that_python_makes(
    found: Findings, case: str, number: int
) -> None:
    """All make the same batches, in the same order, and each takes its part."""
    for epoch, _ in enumerate(found[0][case]["seen"]):
        assert everybodys(found, case, epoch) == list(range(number * BATCH))
        for shares in zip(*(worker[case]["seen"][epoch] for worker in found), strict=True):
            together = sorted(sample for share in shares for sample in share)
            assert together == list(range(together[0], together[0] + BATCH))


@pytest.mark.parametrize("case", ["generator-steps", "PyDataset-steps"])
def test_a_pass_that_goes_on_in_the_next_epoch_loses_no_batch(found: Findings, case: str) -> None:
    """Building the model reads nothing of a generator that cannot be started again."""
    together = everybodys(found, case, 0) + everybodys(found, case, 1)
    assert sorted(together) == list(range(6 * BATCH))


def test_a_pydataset_is_shuffled_anew_in_each_epoch(found: Findings) -> None:
    first, second = (samples(epoch) for epoch in found[0]["PyDataset"]["seen"])
    assert sorted(first) == sorted(second)
    assert first != second and first != sorted(first)


def test_off_means_that_every_worker_reads_all_of_its_own_data(found: Findings) -> None:
    """A step still takes one batch of all workers together: each epoch has P1 times the steps."""
    for rank, worker in enumerate(found):
        assert samples(worker["off-equal"]["seen"][0]) == list(range(3 * BATCH))
        assert len(worker["off-equal"]["seen"][0]) == 3 * len(found)
        assert worker["off-equal"]["steps"] == 3 * len(found)
        own = list(range(1000 * rank, 1000 * rank + BATCH * (1 + rank) + 5))
        assert [samples(epoch) for epoch in worker["off-uneven"]["seen"]] == [own, own]


def test_a_function_makes_each_workers_batches_from_its_context(found: Findings) -> None:
    """The context tells the pipelines, this one's place, the replicas, and a replica's batch."""
    for rank, worker in enumerate(found):
        assert worker["context"] == [len(found), rank, len(found), 4]
        own = list(range(1000 * rank, 1000 * rank + BATCH * (1 + rank) + 1))
        assert [samples(epoch) for epoch in worker["from-function"]["seen"]] == [own, own]


def test_what_ends_equally_has_a_known_length_and_needs_no_vote(found: Findings) -> None:
    """-1 is tf.data's infinite, -2 its unknown: the ends of those are found out on the way."""
    assert found[0]["cardinalities"] == {
        "off, equal": 3 * len(found),
        "off": -2,
        "data": 3,
        "data, endless": -1,
        "filtered": -2,
    }


def test_loops_by_hand_and_in_a_function_end_together(found: Findings) -> None:
    """Also when they come again, and when iterators were dropped on the way."""
    for rank, worker in enumerate(found):
        first, *others = worker["loops"]
        assert others == [first, first] and first[0] == found[0]["loops"][0][0]
        assert first[1] == BATCH * (2 + 2 * rank) + 3


@pytest.mark.parametrize(
    "case, says",
    [
        ("endless-on-one", ["2 on rank 0", "endless on rank 1", "steps_per_epoch"]),
        ("other-batches", ["policy DATA", "2 on rank 0, 4 on rank 1"]),
        ("other-policy", ["DATA on rank 0 and OFF on rank 1"]),
        ("other-dtype", ["different elements", "at [1] on rank 0"]),
        ("single-samples", ["the dataset's elements are single samples; batch() it before"]),
        ("filtered-samples", ["the dataset's elements are single samples; batch() it before"]),
        ("per-replica", ["PER_REPLICA is not supported", "give PER_WORKER"]),
    ],
)
def test_data_that_cannot_work_is_refused_on_every_worker(
    found: Findings, case: str, says: list[str]
) -> None:
    """The job goes on afterwards: nothing was begun."""
    for worker in found:
        for words in says:
            assert words in worker[case]


def test_a_function_may_give_single_samples_whose_number_is_known(found: Findings) -> None:
    """Nobody has to cut them, and nobody runs out before the others."""
    assert all(worker["own-samples"] == [0, 1, 2, 3] for worker in found)
