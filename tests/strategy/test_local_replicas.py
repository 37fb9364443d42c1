"""Two workers with two replicas each train what one process trains on the joined batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

CASES = (
    "fit,eager,several-steps,accumulated,normalized,loop,values,predicted,read,planned,"
    "planned-eagerly"
)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process gives without a strategy."""
    return run_alone("replicas.py", "plain", "1", "fit,accumulated,loop,normalized-by-shares")


@pytest.fixture(scope="module")
def workers() -> list[dict[str, Any]]:
    """What two workers with two replicas each give."""
    with Job("replicas.py", "poseidon", "2", CASES) as job:
        return job.results(timeout_s=240)


def assert_close(found: Any, expected: Any) -> None:
    """Numbers in nested lists and dicts, up to float32 summation order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif expected and isinstance(expected, list) and not np.isscalar(expected[0]):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert_close(mine, theirs)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case, reference",
    [("fit", "fit"), ("eager", "fit"), ("several-steps", "fit"), ("accumulated", "accumulated")],
)
def test_fit_gives_the_weights_history_and_predictions_of_one_process(
    workers: Any, alone: Any, case: str, reference: str
) -> None:
    """In graphs and eagerly, one step or several at a time, and with accumulated gradients."""
    for found in workers:
        assert_close(found[case], alone[reference])


def test_a_loop_gives_the_losses_and_weights_of_one_process(workers: Any, alone: Any) -> None:
    """Reductions within and outside the step agree, and a counter counts each step once."""
    for found in workers:
        assert_close(found["loop"], alone["loop"])


def test_each_replica_normalizes_its_own_share(workers: Any, alone: Any) -> None:
    """Trained weights are those of one process that takes each quarter of the batch by itself."""
    for found in workers:
        assert_close(found["normalized"]["weights"], alone["normalized-by-shares"]["weights"])


def test_moving_statistics_are_equal_and_weights_as_well_bit_for_bit(workers: Any) -> None:
    """Whatever a case trained, both workers hold the same numbers."""
    first, second = (
        {case: found for case, found in worker.items() if case != "read"} for worker in workers
    )
    assert np.ptp(first["normalized"]["moving"][0]) > 0
    assert first == second


def test_a_worker_sends_the_rows_of_all_its_replicas_as_one(workers: Any) -> None:
    """K is a worker's: of 24 rows on 2 x 2 replicas it has 12, with 4 tokens each. The plan says
    so, and so much travels in each of two steps, to and from the one other worker."""
    rows, steps = 12, 2
    factors, table_row, index = 64 + 160, 16, 1
    for found in workers:
        plan = found["planned"]["plan"]
        assert plan["planned/wide/kernel"] == ["sfb", rows]
        assert plan["planned/words/embeddings"] == ["rows", 4 * rows]
        moved = found["planned"]["moved"]
        assert moved["sfb"] == [steps * rows * factors * 4] * 2
        assert moved["rows"] == [steps * 4 * rows * (table_row + index) * 4] * 2
        # Eager replicas contribute as one; a table's rows are counted once all the same.
        assert found["planned-eagerly"]["plan"]["eager/words/embeddings"] == ["rows", 4 * rows]
        assert found["planned-eagerly"]["moved"]["rows"] == moved["rows"]


def test_reductions_go_over_all_replicas(workers: Any) -> None:
    """Replica i of four holds i + 1; sums are 10 everywhere, and means 2.5."""
    for found in workers:
        assert found["values"] == {
            "replicas": 4,
            "eager": [10.0, 10.0],
            "function": [20.0, 20.0],
            "mean": 2.5,
            "sum": 10.0,
        }


@pytest.mark.parametrize("kind", ["array", "dataset", "odd-batches", "unknown-length", "generator"])
def test_predictions_have_the_order_of_the_data(workers: Any, kind: str) -> None:
    """Whether or not its length is known, and the batch can be cut evenly."""
    for found in workers:
        assert found["predicted"][kind] == list(range(21))


@pytest.mark.parametrize("way", ["by hand", "in a function"])
@pytest.mark.parametrize(
    "data, sizes",
    [
        ("known", (32, 32)),
        ("unknown", (29, 29)),
        ("function", (24, 24)),
        ("even-function", (32, 32)),
        ("odd-function", (24, 24)),
        ("voted-function", (24, 32)),
    ],
)
def test_replicas_share_their_workers_data(
    workers: Any, data: str, sizes: tuple[int, int], way: str
) -> None:
    """Where every worker has its own: no sample is left out, and none read by both replicas."""
    for found, size in zip(workers, sizes, strict=True):
        assert sorted(_flat(found["read"][data][way])) == list(range(size))


def test_pieces_are_dealt_out_in_turns(workers: Any) -> None:
    """In graphs as well: the first to the first replica, the next to the second."""
    for found in workers:
        of_function = [list(range(first, first + 8)) for first in (0, 8, 16)]
        assert found["read"]["function"]["by hand"] == [of_function[:2], [of_function[2], []]]
        assert found["read"]["function"]["in a function"] == _flat(of_function)
        assert found["read"]["unknown"]["two steps"] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def _flat(nested: Any) -> list[float]:
    if not isinstance(nested, list):
        return [nested]
    return [number for each in nested for number in _flat(each)]


def test_one_worker_alone_may_have_several_replicas(alone: Any) -> None:
    """It trains as TensorFlow's mirrored strategy does, without servers or other workers."""
    found = run_alone("replicas.py", "poseidon", "2", "fit,loop")
    for case in ("fit", "loop"):
        assert_close(found[case], alone[case])


def test_workers_with_different_numbers_of_replicas_are_told_so() -> None:
    """Both end with one sentence that names the ranks and what to do."""
    with Job("equality.py", "/", "ps", rank_environ={1: {"LOCAL_REPLICAS": "2"}}) as job:
        assert all(job.wait()[:2])
        for worker in job.workers:
            assert "worker rank 0 has 1 replicas, worker rank 1 has 2" in worker.output()


def test_devices_that_are_not_there_are_refused() -> None:
    """The message lists those that are."""
    with pytest.raises(AssertionError, match="this process has no 'CPU:7'; it has /device:CPU:0"):
        run_alone("no_such_device.py")
