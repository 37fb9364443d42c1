"""Steps that are traced again, several models, and values that a program reduces by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

PARTS = ["partial-3", "partial-1", "partial-loop", "alternating", "two-optimizers"]
# In fit a mean over unequal shares is a mean of means, as under TensorFlow's own strategies.
PARTS_AS_ALONE = ["partial-loop", "alternating", "two-optimizers"]

Findings = list[dict[str, Any]]


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def job(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Findings]:
    """Where rank 0 left its weights, and each worker's findings."""
    folder = tmp_path_factory.mktemp("retraces")
    with Job("retraces.py", str(folder), num_workers=request.param) as job:
        return folder, job.results(timeout_s=240)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where one process left its weights, and what it found."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run_alone("retraces.py", str(folder))


@pytest.mark.parametrize("part", PARTS)
def test_weights_are_equal_bit_for_bit_on_all_workers(
    job: tuple[Path, Findings], part: str
) -> None:
    """Partial batches, an empty share, two models and two optimizers leave nobody behind."""
    _, found = job
    assert len({worker[f"digest-{part}"] for worker in found}) == 1


@pytest.mark.parametrize("part", PARTS_AS_ALONE)
def test_custom_loops_and_alternating_models_equal_one_process(
    job: tuple[Path, Findings], alone: tuple[Path, dict[str, Any]], part: str
) -> None:
    """Losses divided by the global batch give one process's weights, however it is shared."""
    together, expected = np.load(job[0] / f"{part}.npz"), np.load(alone[0] / f"{part}.npz")
    assert together.files == expected.files
    for name in expected.files:
        np.testing.assert_allclose(
            together[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_workers_trace_when_their_own_share_changes(job: tuple[Path, Findings]) -> None:
    """Shares of 2 and 2, then 2 and 1, make rank 1 alone trace again; a share may be empty."""
    _, found = job
    # The first call creates the optimizer's variables, so TensorFlow traces it twice.
    expected = {2: [[2, 2], [2, 2, 1]], 3: [[2, 2, 1], [2, 2, 1], [0, 0, 1]]}
    assert [worker["traces"] for worker in found] == expected[len(found)]


def test_both_ways_were_retraced(job: tuple[Path, Findings]) -> None:
    """Some kernels of these models go as factors and some through the servers."""
    _, found = job
    assert all(worker["schemes"] == ["ps", "sfb"] for worker in found)


def test_two_optimizers_see_the_losses_of_one_process(
    job: tuple[Path, Findings], alone: tuple[Path, dict[str, Any]]
) -> None:
    """The summed losses of every adversarial step are equal on all workers and to one process."""
    _, found = job
    losses = [worker["losses-two-optimizers"] for worker in found]
    assert all(each == losses[0] for each in losses)
    np.testing.assert_allclose(losses[0], alone[1]["losses-two-optimizers"], rtol=1e-5)


def test_own_reductions_give_sums_and_means(job: tuple[Path, Findings]) -> None:
    """all_reduce in a function, in a loop, on a list, and strategy.reduce, agree everywhere."""
    _, found = job
    total, mean = sum(range(1, len(found) + 1)), (len(found) + 1) / 2
    row = [total * 1.0, total * 10.0]
    expected = {
        "sum": [row, row],
        "mean": [[mean, 10 * mean]] * 2,
        "list": [[201 * value for value in row]] * 2,
        "loop": [[[turn * value for value in row] for turn in range(6)]] * 2,
        "reduce sum": row,
        "reduce mean": [mean, 10 * mean],
        "reduce rows": sum(row),
        "reduce mean of rows": sum(row) / (2 * len(found)),
        "integers": [2 * len(found), 3 * len(found)],
    }
    for worker in found:
        assert {name: worker["reductions"][name] for name in expected} == expected


def test_all_reduce_in_a_branch_sums_what_the_branch_gives(job: tuple[Path, Findings]) -> None:
    """Both branches of a tf.cond sum their own value, also when they take turns."""
    _, found = job
    row = [value * sum(range(1, len(found) + 1)) for value in (1.0, 10.0)]
    for worker in found:
        assert worker["reductions"]["branch taken"] == row
        assert worker["reductions"]["other branch"] == [-value for value in row]
        assert worker["reductions"]["branch again"] == row


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_gradient_of_a_function_that_reduces_is_reduced_too(
    job: tuple[Path, Findings], mode: str
) -> None:
    """Also where TensorFlow builds it without an order of its own, for tapes outside of it."""
    _, found = job
    total = sum(range(1, len(found) + 1))
    for worker in found:
        assert worker[f"gradients-one_tape-{mode}"] == [11.0 * total]
        both = worker[f"gradients-two_tapes-{mode}"]
        assert both == [11.0 * total, 11.0 * (total + len(found))]


def test_a_function_may_be_traced_at_different_calls(job: tuple[Path, Findings]) -> None:
    """What it reduces has the same names on a worker that traces it once more elsewhere."""
    _, found = job
    means = [worker["moving-mean"] for worker in found]
    assert all(mean == means[0] for mean in means)
