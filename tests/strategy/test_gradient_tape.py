"""poseidon_tf.GradientTape returns sums, and no optimizer sums them once more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

LOOPS = ["eager", "graph", "eager-clipped", "graph-clipped", "left-out"]
ONCE, TWICE, NOT = [1.0, 1.0], [2.0, 2.0], [0.0, 0.0]
Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> Findings:
    """What each of two workers has found."""
    with Job("tape.py") as job:
        return job.results()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process finds, for which the tape is TensorFlow's."""
    return run_alone("tape.py")


@pytest.mark.parametrize("loop", LOOPS)
def test_weights_are_those_of_one_process_on_the_joined_batch(
    found: Findings, alone: dict[str, Any], loop: str
) -> None:
    """With an embedding, a shared layer and BatchNormalization, also where sums are clipped, and
    where one worker's loss depends on fewer variables in one step."""
    assert len(found[0][f"{loop}-weights"]) == len(alone[f"{loop}-weights"])
    for mine, expected in zip(found[0][f"{loop}-weights"], alone[f"{loop}-weights"], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loop", LOOPS)
def test_weights_are_equal_bit_for_bit_on_all_workers(found: Findings, loop: str) -> None:
    """Both workers report the same digest."""
    assert found[0][f"{loop}-digest"] == found[1][f"{loop}-digest"]


@pytest.mark.parametrize("loop", LOOPS)
def test_only_what_no_loss_depends_on_has_no_gradient(
    found: Findings, alone: dict[str, Any], loop: str
) -> None:
    """The unused layer's gradients are None, as in one process."""
    nones = [worker[f"{loop}-none"] for worker in (*found, alone)]
    assert nones == [["unused/bias", "unused/kernel"]] * 3


def test_gradients_of_a_function_may_travel_as_factors(found: Findings) -> None:
    """The first layer's kernel went through the servers in eager mode and as factors in a graph."""
    assert found[0]["schemes"] == ["ps", "sfb"]


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    "step, a, b",
    [
        ("two_optimizers", ONCE, ONCE),
        ("changed", TWICE, NOT),
        ("twice_one_sum", TWICE, NOT),
        ("accumulated", TWICE, NOT),
        ("by_turns", TWICE, NOT),
        ("persistent", ONCE, ONCE),
    ],
)
def test_every_gradient_is_summed_once(
    found: Findings, step: str, a: list[float], b: list[float], mode: str
) -> None:
    """Variables move by so many sums over the workers, and not by sums of sums or shares."""
    for worker in found:
        accepted, (moved_a, moved_b) = worker[f"{step}-{mode}"]
        assert accepted == "accepted"
        assert moved_a == pytest.approx([a[0]] * 3)
        assert moved_b == pytest.approx(b)


@pytest.mark.parametrize("passes", ["two_passes", "passes_of_a_loop"])
def test_passes_over_one_variable_are_summed_in_program_order(found: Findings, passes: str) -> None:
    """In one graph, where what comes first on one worker comes last on the other."""
    expected = {"two_passes": [1.0, 10.0], "passes_of_a_loop": [0.0, 1.0, 2.0, 3.0]}[passes]
    for worker in found:
        assert worker[passes] == pytest.approx(expected)


def test_sources_may_be_nested_and_repeated(found: Findings) -> None:
    """A dict of variables gives a dict; what was not watched has None."""
    assert [worker["structure"][0] for worker in found] == ["accepted"] * 2
    assert found[0]["structure"][1][0] == pytest.approx([1.0] * 3)


def test_a_variable_may_get_its_first_gradient_later(found: Findings) -> None:
    """The workers agree once more, on the new one alone."""
    for worker in found:
        accepted, (moved_c, moved_d) = worker["grows"]
        assert accepted == "accepted"
        assert moved_c == pytest.approx([2.0]) and moved_d == pytest.approx([1.0])


@pytest.mark.parametrize(
    "step, says",
    [
        (
            "mixed",
            "the gradient of 'a', which poseidon_tf.GradientTape has summed over the workers,",
        ),
        ("mixed_in_graph", "and that of 'b', which it has not; take all of them from"),
        ("all_reduced", "the gradient of 'c' was all-reduced before optimizer.apply"),
        ("applied_elsewhere", "call optimizer.apply in the same tf.function as tape.gradient"),
        ("local_after_tape", "differs between rank 0 and rank 1"),
        ("second_derivative", "cannot be differentiated once more"),
        ("of_a_tensor", "sums the gradients of variables over the workers, got the source"),
        ("jacobian", "use tf.GradientTape for it"),
        ("used_up", "RuntimeError: A non-persistent GradientTape can only be used"),
        ("in_scope", "call it with strategy.run"),
        ("outside", "is for functions that a PoseidonStrategy runs, got"),
    ],
)
def test_what_cannot_be_summed_rightly_is_refused(found: Findings, step: str, says: str) -> None:
    """Every worker says what is wrong and what to do."""
    for worker in found:
        assert says in worker[step]


def test_a_step_that_breaks_between_two_gradients_ends_the_job_everywhere() -> None:
    """Rank 0 goes on, yet no gradient of its next step is taken for one of the broken step."""
    with Job("tape.py", "break") as job:
        job.wait()
        mine, theirs = (worker.results() for worker in job.workers)
    assert mine["first"] == theirs["first"] == "accepted"
    assert "ArithmeticError: broken on purpose" in mine["second"]
    for text in (theirs["second"], mine["third"], theirs["third"]):
        assert "after some of its gradients had left for the other workers" in text
        assert "broken on purpose" in text
