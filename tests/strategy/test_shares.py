"""Shares of a batch that differ in size, or are empty: what a step on them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

Weights = dict[str, np.ndarray]
Found = tuple[str, list[dict[str, Any]], list[Weights]]
Reference = tuple[int, dict[str, Any], Weights, dict[str, Any]]


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(3, marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    """How many workers; losses and weights by hand; histories of fits in one process."""
    folder = tmp_path_factory.mktemp("reference")
    found = run_alone("shares.py", str(folder), "reference", str(request.param))
    with np.load(folder / f"reference-{request.param}.npz") as file:
        return request.param, found["histories"], dict(file), found["inputs"]


@pytest.fixture(scope="module", params=["replica", "sample"])
def job(
    request: pytest.FixtureRequest,
    reference: Reference,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, list[dict[str, Any]], list[Weights]]:
    """The weighting, and each worker's findings and weights."""
    num_workers = reference[0]
    folder = tmp_path_factory.mktemp("job")
    with Job("shares.py", str(folder), request.param, num_workers=num_workers) as job:
        found = job.results(timeout_s=300)
    weights = []
    for rank in range(num_workers):
        with np.load(Path(folder) / f"{request.param}-{num_workers}-{rank}.npz") as file:
            weights.append(dict(file))
    return request.param, found, weights


@pytest.mark.parametrize("how", ["fit", "loop"])
def test_weights_are_those_of_the_formula(job: Found, reference: Reference, how: str) -> None:
    """Last batches of P1-1, P1+1 and 1 rows, with and without statistics, on both ways."""
    way, _, weights = job
    cases = [name for name in weights[0] if name.startswith(f"{how} ")]
    assert len(cases) >= 12
    for name in cases:
        expected = reference[2][name.replace(how, way, 1)]
        np.testing.assert_allclose(weights[0][name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_formulas_differ_on_these_batches(reference: Reference) -> None:
    """Otherwise the test above would show little."""
    weights = reference[2]
    differences: dict[str, float] = {}
    for name, values in weights.items():
        if name.startswith("replica "):
            case, _, _ = name.rpartition(" ")
            difference = np.abs(values - weights[name.replace("replica", "sample", 1)]).max()
            differences[case] = max(differences.get(case, 0.0), float(difference))
    assert all(difference > 1e-4 for difference in differences.values()), differences


def test_all_workers_have_the_same_bits(job: Found) -> None:
    """An empty share makes nobody differ, and nothing that is not a number."""
    _, _, weights = job
    for name, values in weights[0].items():
        assert np.isfinite(values).all(), name
        assert all(other[name].tobytes() == values.tobytes() for other in weights[1:]), name


def test_the_epochs_loss_is_the_mean_over_all_samples(job: Found, reference: Reference) -> None:
    """An empty share counts nothing in `history`."""
    way, found, _ = job
    assert all(worker["histories"] == found[0]["histories"] for worker in found)
    for case, loss in found[0]["histories"].items():
        np.testing.assert_allclose(loss, reference[1][f"{way} {case}"], rtol=1e-5, err_msg=case)


def test_both_ways_were_taken_and_a_worker_had_no_rows(job: Found) -> None:
    """A custom loop's loss over no rows is not a number; the weights above do not show it."""
    way, found, _ = job
    schemes = found[0]["schemes"]
    assert {scheme for name, scheme in schemes.items() if "by_factors" in name} == {"sfb"}
    assert {scheme for name, scheme in schemes.items() if "by_server" in name} == {"ps"}
    assert np.isnan(found[-1]["loop-1"][-1])
    assert np.isfinite(found[0]["loop-1"]).all()


def test_history_is_that_of_one_process_whatever_the_data_comes_as(
    job: Found, reference: Reference
) -> None:
    """Weighted by samples, losses and metrics of unequal shares are those of the joined batch."""
    way, found, _ = job
    if way == "replica":
        assert found[0]["inputs"] == {}
        return
    assert all(worker["inputs"] == found[0]["inputs"] for worker in found)
    for name, history in reference[3].items():
        for metric, values in history.items():
            np.testing.assert_allclose(
                found[0]["inputs"][name][metric], values, rtol=1e-5, err_msg=f"{name} {metric}"
            )
