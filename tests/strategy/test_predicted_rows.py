"""`predict` gives all workers what one process gets, of whatever kind and however much it is."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

KINDS = [
    "text",
    "half",
    "text-in-columns",
    "ragged",
    "ragged-text",
    "ragged-twice",
]
# Keras cannot join sparse ones of several replicas under any strategy, and no array of a replica
# without rows whose other dimensions depend on the rows.
KINDS_OF_ONE_REPLICA = ["sparse", "sparse-text", "of-some-width"]
ROWS = [8, 6, 13, 1]


# Workers, and replicas of each of them.
Layout = tuple[int, int]
ONE_REPLICA = [
    pytest.param((2, 1), id="2-workers"),
    pytest.param((3, 1), id="3-workers", marks=pytest.mark.thorough),
]
LAYOUTS = [*ONE_REPLICA, pytest.param((2, 2), id="2-replicas", marks=pytest.mark.thorough)]


class Workers(dict[Layout, list[dict[str, Any]]]):
    """By layout, each worker's predictions; found when they are asked for."""

    def __missing__(self, layout: Layout) -> list[dict[str, Any]]:
        num_workers, count = layout
        with Job("predictions.py", "kinds", str(count), num_workers=num_workers) as job:
            self[layout] = job.results(timeout_s=300)
        return self[layout]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process predicts, without any strategy."""
    return run_alone("predictions.py", "kinds", "1", timeout_s=300)


def assert_as_alone(found: list[dict[str, Any]], alone: dict[str, Any], name: str) -> None:
    for rank, of_worker in enumerate(found):
        assert of_worker[name] == alone[name], f"rank {rank}"


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_worker_gets_what_one_process_gets(
    workers: Workers, alone: dict[str, Any], layout: Layout, kind: str, num_rows: int
) -> None:
    """Values, order, types, nesting and shapes; also where a worker has no row of a batch."""
    assert_as_alone(workers[layout], alone, f"{kind}/{num_rows}")


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("kind", KINDS_OF_ONE_REPLICA)
@pytest.mark.parametrize("layout", ONE_REPLICA)
def test_sparse_outputs_and_such_of_any_shape_come_as_in_one_process(
    workers: Workers, alone: dict[str, Any], layout: Layout, kind: str, num_rows: int
) -> None:
    """With one replica on each worker."""
    assert_as_alone(workers[layout], alone, f"{kind}/{num_rows}")


def check_large(mebibytes: int) -> None:
    with Job("predictions.py", "large", str(mebibytes)) as job:
        found = job.results(timeout_s=600)
    for worker in found:
        assert worker["shape"] == [mebibytes * 16, 16384, 1]
        assert worker["is-right"]
        # One process takes three times as much: the batches, and what Keras joins and converts.
        assert worker["MiB-more"] < 3 * mebibytes + 100, worker["MiB-more"]


def test_predictions_may_be_more_than_a_message_holds() -> None:
    """200 MiB, in no more memory than one process takes."""
    check_large(200)


@pytest.mark.thorough
@pytest.mark.timeout(700)
def test_predictions_may_be_gigabytes() -> None:
    """2 GiB."""
    check_large(2048)


def test_a_worker_that_dies_while_predictions_travel_ends_the_job() -> None:
    """The other one raises what the job failed of, and the server ends."""
    with Job("predictions.py", "killed", "100") as job:
        codes = job.wait()
        output = job.workers[0].output()
        address = job.workers[1].address
    assert codes == [1, -signal.SIGKILL, 1]
    assert f"worker rank 1 ({address}) closed its connection without a goodbye" in output
    assert "waited for all workers to end predict (gather" in output
