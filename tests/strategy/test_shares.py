"""Shares of a batch that differ in size, or are empty: what a step on them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

Weights = dict[str, np.ndarray]
Found = tuple[str, list[dict[str, Any]], list[Weights]]
Reference = tuple[tuple[int, int], dict[str, Any], Weights]


@pytest.fixture(
    scope="module",
    params=[
        (2, 1),
        pytest.param((3, 1), marks=pytest.mark.thorough),
        pytest.param((2, 2), marks=pytest.mark.thorough),
    ],
    ids=["2-workers", "3-workers", "2-workers-with-2-replicas"],
)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    """How many workers, and replicas of each; what one process finds; weights by hand."""
    folder = tmp_path_factory.mktemp("reference")
    found = run_alone("shares.py", str(folder), "reference", *map(str, request.param))
    with np.load(folder / "reference.npz") as file:
        return request.param, found, dict(file)


@pytest.fixture(
    scope="module", params=["sample", pytest.param("replica", marks=pytest.mark.thorough)]
)
def job(
    request: pytest.FixtureRequest,
    reference: Reference,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, list[dict[str, Any]], list[Weights]]:
    """The weighting, and each worker's findings and weights."""
    num_workers, num_local = reference[0]
    folder = tmp_path_factory.mktemp("job")
    arguments = (str(folder), request.param, str(num_local))
    with Job("shares.py", *arguments, num_workers=num_workers) as job:
        found = job.results(timeout_s=300)
    weights = []
    for rank in range(num_workers):
        with np.load(Path(folder) / f"{request.param}-{rank}.npz") as file:
            weights.append(dict(file))
    return request.param, found, weights


@pytest.mark.parametrize("how", ["fit", "loop"])
def test_weights_are_those_of_the_formula(job: Found, reference: Reference, how: str) -> None:
    """Last batches of R-1, R+1 and 1 rows of R replicas, and data that ends earlier on some.

    With and without statistics, and with sparse rows.
    """
    way, _, weights = job
    cases = [name for name in weights[0] if name.startswith(f"{how} ")]
    expected_cases = {"plain", "words", *(["statistics", "file", "function"] * (how == "fit"))}
    assert {name.split()[-2] for name in cases} == expected_cases
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


def test_the_epochs_loss_and_metric_are_means_over_all_samples(
    job: Found, reference: Reference
) -> None:
    """An empty share counts nothing in `history`."""
    way, found, _ = job
    assert all(worker["histories"] == found[0]["histories"] for worker in found)
    assert {"file", "function", "1 words", "1 statistics"} <= set(found[0]["histories"])
    for case, history in found[0]["histories"].items():
        assert_close(history, reference[1]["histories"][f"{way} {case}"])


def test_evaluate_counts_every_sample_once_where_data_ends_earlier_on_some(
    job: Found, reference: Reference
) -> None:
    """The scores are NumPy's over all rows of all workers, by files and from a function."""
    way, found, _ = job
    for worker in found:
        assert set(worker["tested"]) == {"file", "function"}
        for case, tested in worker["tested"].items():
            assert_close(tested, reference[1]["tested"][f"{way} {case}"])


def test_both_ways_were_taken_and_a_worker_had_no_rows(job: Found) -> None:
    """A custom loop's loss over no rows is not a number; the weights above do not show it."""
    way, found, _ = job
    schemes = found[0]["schemes"]
    assert {scheme for name, scheme in schemes.items() if "by_factors" in name} == {"sfb"}
    assert {scheme for name, scheme in schemes.items() if "by_server" in name} == {"ps"}
    assert {scheme for name, scheme in schemes.items() if "words" in name} == {"rows"}
    assert np.isnan(found[-1]["loop-1"][-1][-1])
    assert np.isfinite([losses[0] for losses in found[0]["loop-1"]]).all()


def test_history_is_that_of_one_process_whatever_the_data_comes_as(
    job: Found, reference: Reference
) -> None:
    """Weighted by samples, losses and metrics of unequal shares are those of the joined batch."""
    way, found, _ = job
    if way == "replica":
        assert found[0]["inputs"] == {}
        return
    assert all(worker["inputs"] == found[0]["inputs"] for worker in found)
    for name, history in reference[1]["inputs"].items():
        for metric, values in history.items():
            np.testing.assert_allclose(
                found[0]["inputs"][name][metric], values, rtol=1e-5, err_msg=f"{name} {metric}"
            )


def test_an_eager_tape_cannot_weigh_samples(job: Found, reference: Reference) -> None:
    """Its gradients leave before all shares' rows are known; the job trains on after the error."""
    way, found, _ = job
    (_, num_local), _, _ = reference
    by_replicas = {
        1: "needs a traced step with poseidon_tf.GradientTape; put the step",
        2: "with several replicas on a worker needs a traced step; leave out run_eagerly=True, put",
    }
    says = f'loss_weighting="sample" {by_replicas[num_local]}' if way == "sample" else ""
    for worker in found:
        text = worker["eager-tape"]
        assert text.startswith(says) and bool(text) == bool(says)
