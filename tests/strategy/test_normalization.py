"""BatchNormalization: over all shares together if asked, else each share by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

FITS = ["whole", "unequal", "one-row", "several-steps", "several-steps/one-row"]
EQUAL = ["whole", "several-steps"]  # Of these, the batches whose shares are equal.
FORWARD = ["forward", "forward/unequal", "forward/one-row"]
Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds on the joined batches."""
    return run_alone("normalization.py", "plain", "1", ",".join([*FITS, "eager", *FORWARD]))


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(2, marks=pytest.mark.thorough)],
    ids=["1-replica", "2-replicas"],
)
def two(request: pytest.FixtureRequest) -> Findings:
    """Two workers, with one replica or two each; shares count by their rows."""
    cases = [*FITS, *(["eager"] if request.param == 1 else [])]
    with Job("normalization.py", "poseidon", str(request.param), ",".join(cases), "sample") as job:
        return job.results(timeout_s=200)


@pytest.fixture(scope="module")
def three() -> Findings:
    """Three workers with one replica each; shares count alike."""
    cases = ",".join(["own", *EQUAL, *FORWARD])
    with Job("normalization.py", "poseidon", "1", cases, "replica", num_workers=3) as job:
        return job.results(timeout_s=200)


@pytest.mark.parametrize("case", FITS)
def test_synchronised_statistics_train_as_one_process(
    two: Findings, alone: dict[str, Any], case: str
) -> None:
    """Weights, moving statistics and history; last batches of 7 rows and of one as well."""
    assert two[0][case] == two[1][case]
    assert_close(two[0][case], alone[case])


@pytest.mark.parametrize("case", EQUAL)
def test_equal_shares_train_as_one_process_without_being_weighed(
    three: Findings, alone: dict[str, Any], case: str
) -> None:
    """Weights, moving statistics and history, with the weighting that is the default."""
    assert all(worker[case] == three[0][case] for worker in three)
    assert_close(three[0][case], alone[case])


def test_synchronised_statistics_train_as_one_process_eagerly(
    two: Findings, alone: dict[str, Any]
) -> None:
    """The same, step by step; it needs one replica per worker where shares count by rows."""
    for worker in two:
        if "eager" in worker:
            assert_close(worker["eager"], alone["eager"])


@pytest.mark.parametrize("case", FORWARD)
def test_synchronised_outputs_and_gradients_are_those_of_one_process(
    three: Findings, alone: dict[str, Any], case: str
) -> None:
    """Outputs and gradients of the inputs of all shares, one of them empty in the last case."""
    found = dict(three[0][case])
    for name in ("outputs", "of_x"):
        found[name] = [row for worker in three for row in worker[case][name]]
    assert_close(found, alone[case])
    for worker in three[1:]:
        assert worker[case]["moving"] == three[0][case]["moving"]
    if case == "forward/one-row":
        assert [len(worker[case]["outputs"]) for worker in three] == [1, 0, 0]


def test_moving_statistics_are_the_means_of_the_shares_after_every_step(three: Findings) -> None:
    """Three workers hold the same ones, which three replicas in one process would average to."""
    found, hidden = three[0]["own"]
    assert all(worker["own"][0] == found for worker in three)
    mean, variance = np.zeros(6), np.ones(6)
    assert len(found) == 3
    for step, (moving_mean, moving_variance) in enumerate(found):
        shares = np.split(np.array(hidden)[12 * step : 12 * (step + 1)], 3)
        mean = 0.7 * mean + 0.3 * np.mean([share.mean(0) for share in shares], axis=0)
        variance = 0.7 * variance + 0.3 * np.mean([share.var(0) for share in shares], axis=0)
        np.testing.assert_allclose(moving_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moving_variance, variance, rtol=1e-5, atol=1e-6)
