"""A custom loop whose workers would part without a word is refused on each of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

OUTSIDE = [
    "eager",
    "function",
    "in the scope",
    "in a merge call",
    "accumulating",
    "scaled",
    "optimizer made elsewhere",
]
OVERWRITTEN = {
    "eager": "sequential",
    "function": "sequential",
    "tape": "sequential",
    "scaled": "sequential",
    "fit": "sequential",
    "float8": "scale",
}
Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> Findings:
    """What each of two workers has found."""
    with Job("refused_loops.py") as job:
        return job.results()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds."""
    return run_alone("refused_loops.py")


@pytest.mark.parametrize("way", OUTSIDE)
def test_an_optimizer_is_not_called_outside_of_replicas(found: Findings, way: str) -> None:
    """Each worker says where to call it, and has changed nothing."""
    for worker in found:
        said, changed = worker["outside"][way]
        assert "was called outside of strategy.run" in said
        assert "call it with strategy.run(step, args=...)" in said
        assert not changed


@pytest.mark.parametrize("way", OVERWRITTEN)
def test_what_is_overwritten_with_its_gradient_is_refused(found: Findings, way: str) -> None:
    """By name, by optimizers and by the tape; a worker has changed nothing."""
    for worker in found:
        said, changed = worker["overwritten"][way]
        assert "is overwritten with its gradient, as quantize" in said
        assert OVERWRITTEN[way] in said
        assert not changed


def test_a_gradient_that_all_have_is_divided_by_the_replicas(found: Findings) -> None:
    """Then its sum is what it was."""
    assert [worker["alike"] for worker in found] == [[3.0, -1.0]] * 2


def test_one_worker_alone_is_free_to_do_all_of_it(alone: dict[str, Any]) -> None:
    """There is nobody to part from; what Keras itself refuses stays refused."""
    ways = [*alone["outside"].items(), *alone["overwritten"].items()]
    assert not [way for way, (said, _) in ways if "strategy.run(step" in said or "part" in said]
    assert alone["outside"]["eager"][0] == alone["overwritten"]["float8"][0] == "accepted"
