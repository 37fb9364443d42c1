"""Whatever is made in the scope has rank 0's first values before a custom loop uses it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

ROWS, RATE = 8, 0.1  # As in the script.
Findings = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[1, 2], ids=["one replica", "two replicas"])
def found(request: pytest.FixtureRequest) -> Findings:
    """What each of two workers has found before all of them fail, as they are meant to."""
    with Job("unseeded.py", str(request.param)) as job:
        job.wait()
        results = [worker.results() for worker in job.workers]
        outputs = "\n".join(member.output()[-4000:] for member in job.workers)
    assert all("too_late" in each for each in results), outputs
    return results


def test_an_eager_step_begins_at_the_values_of_rank_0(found: Findings) -> None:
    """One step of SGD on the joined batch, behind rank 0's frozen layer, with either tape."""
    x = np.random.default_rng(4).normal(size=(ROWS, 3)).astype("float32")
    y = np.random.default_rng(5).normal(size=(ROWS, 2)).astype("float32")
    frozen, *trained = (np.array(weight) for weight in found[0]["eager"]["before"])
    features = x @ frozen
    expected = [w - RATE * 2 / ROWS * features.T @ (features @ w - y) for w in trained]
    for worker in found:
        for weight, right in zip(worker["eager"]["after"], [frozen, *expected], strict=True):
            np.testing.assert_allclose(weight, right, rtol=1e-5, atol=1e-6)


def test_workers_hold_the_same_bits_though_each_drew_its_own(found: Findings) -> None:
    """After the first step of each loop, and of a `fit`."""
    first, second = found
    assert first["eager"]["before"] != second["eager"]["before"]
    for way in ("eager", "adversaries", "others_on_rank_0", "taught"):
        assert first[way]["digest"] == second[way]["digest"]


@pytest.mark.parametrize("way", ["adversaries", "taught"])
def test_networks_that_a_step_only_uses_are_those_of_rank_0(found: Findings, way: str) -> None:
    """A generator that is trained later, a target, the teacher in a `train_step`."""
    first, second = found
    assert first[way]["before"] != second[way]["before"]
    assert first[way]["after"] == second[way]["after"] == first[way]["before"]


def test_a_variable_that_one_worker_alone_has_stops_nobody(found: Findings) -> None:
    """It keeps its value, and rank 0 says which variables are not compared because of it."""
    first, second = (worker["others_on_rank_0"] for worker in found)
    assert first["before"] != second["before"]
    assert (first["counters"], second["counters"]) == ([5], [])
    (text,) = first["warned"]
    assert re.search(r"scope \(.* int64 \(\) on rank 0 and .* float32 \(3, 2\) on rank 1\)", text)
    assert "make what one worker has alone outside of the scope" in text
    assert second["warned"] == []


def test_a_gradient_at_other_values_fails_every_worker(found: Findings) -> None:
    """Where an eager step makes its variables itself, none has been agreed on before."""
    for worker in found:
        assert "had other first values on some worker as an eager step took" in worker["too_late"]
        assert "call keras.utils.set_random_seed with the same number" in worker["too_late"]
        assert "rank" in worker["too_late"] and "step" in worker["too_late"]
