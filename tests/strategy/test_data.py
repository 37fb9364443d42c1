"""Every sample is used once, and what Keras returns is about all of them, on every worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

ROWS = [37, 41]
PREDICTIONS = {
    "numpy",
    "dataset",
    "first of two outputs",
    "second of two outputs",
    "two steps per execution",
}

Findings = list[dict[str, Any]]


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def job(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Findings]:
    """Where the predictions are, and each worker's findings; rank 1 built an extra model."""
    folder = tmp_path_factory.mktemp("data")
    extra = {1: {"EXTRA_WORK": "1"}}
    with Job("data.py", str(folder), num_workers=request.param, rank_environ=extra) as job:
        return folder, job.results(timeout_s=240)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds."""
    return run_alone("data.py", str(tmp_path_factory.mktemp("alone")))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("source", ["numpy", "dataset"])
def test_shuffled_epochs_use_every_sample_exactly_once(
    job: tuple[Path, Findings], source: str, num_rows: int
) -> None:
    """Without a seed from the user the workers' shares of each epoch are disjoint and complete."""
    _, found = job
    shares = [worker[f"seen-{source}-{num_rows}"] for worker in found]
    for epoch in range(2):
        together = [sample for share in shares for sample in share[epoch]]
        assert sorted(together) == list(range(num_rows))
        assert together != sorted(together), "nobody shuffled"


@pytest.mark.parametrize("num_rows", ROWS)
def test_predict_returns_all_rows_in_order_on_every_worker(
    job: tuple[Path, Findings], num_rows: int
) -> None:
    """Whatever feeds it and however many outputs it has, row i is sample i's."""
    folder, found = job
    for rank in range(len(found)):
        predicted = np.load(folder / f"predictions-{num_rows}-{rank}.npz")
        assert set(predicted.files) == PREDICTIONS
        for name in predicted.files:
            assert predicted[name].shape == (num_rows, 1), name
            assert predicted[name][:, 0].tolist() == list(range(num_rows)), f"{name} on {rank}"


def test_history_and_scores_are_equal_on_all_workers(job: tuple[Path, Findings]) -> None:
    """Losses and metrics of fit, its validation and evaluate have the same bits everywhere."""
    _, found = job
    assert all(worker["scores"] == found[0]["scores"] for worker in found)


def test_history_and_scores_are_those_of_one_process(
    job: tuple[Path, Findings], alone: dict[str, Any]
) -> None:
    """Where shares are equal, losses and metrics are those over the joined batches."""
    _, found = job
    together, expected = found[0]["scores"], alone["scores"]
    assert set(expected["history"]) == {
        f"{prefix}{name}" for prefix in ("", "val_") for name in ("loss", "mae", "rmse")
    }
    for part, values in expected.items():
        assert set(together[part]) == set(values)
        for name, value in values.items():
            np.testing.assert_allclose(
                together[part][name], value, rtol=1e-5, err_msg=f"{part} {name}"
            )
