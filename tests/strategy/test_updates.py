"""What Keras's optimizers can be told, and dtypes: the weights are those of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

CLIPPED = ["clipnorm", "clipvalue", "global_clipnorm"]
CASES = [
    *CLIPPED,
    "accumulation-sgd",
    "accumulation-clipped",
    "plain",
    "weight-decay",
    "ema-overwrite",
    "ema-overwrite-held",
    "ema-swap",
    "loss-scale-factor",
    "Ftrl",
    "Lamb",
    "regularizer",
    "unused",
]
# Rules that get their sums as those above do, and types that other tests have in larger nets.
MORE = [
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "Nadam",
    "Lion",
    "ema",
    "float16",
    "bfloat16",
    "float64",
    "mixed_bfloat16",
]
# Relative and absolute rounding of the type that weights or activations have.
ROUNDED = {
    "float16": (5e-3, 5e-3),
    "bfloat16": (4e-2, 4e-2),
    "mixed_bfloat16": (4e-2, 4e-3),
    "mixed_float16": (5e-3, 1e-3),
    "mixed-clipped": (5e-3, 1e-3),
    "mixed-accumulation": (5e-3, 1e-3),
}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process ends with."""
    return run_alone("updates.py", timeout_s=240)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """What each of two workers ends with."""
    with Job("updates.py") as job:
        return job.results(timeout_s=280)


@pytest.fixture(scope="module")
def clipped_shares() -> list[dict[str, Any]]:
    """The same with `clip="local"`."""
    with Job("updates.py", "local") as job:
        return job.results(timeout_s=240)


def check(alone: dict[str, Any], found: list[dict[str, Any]], case: str) -> None:
    rtol, atol = ROUNDED.get(case, (1e-5, 1e-6))
    assert found[0][case] == found[1][case]
    for what in ("weights", "loss"):
        assert_close(found[0][case][what], alone[case][what], rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", [*CASES, "mixed_float16", "mixed-clipped", "mixed-accumulation"])
def test_weights_and_losses_are_those_of_one_process(
    alone: dict[str, Any], found: list[dict[str, Any]], case: str
) -> None:
    """And equal bit for bit on both workers."""
    check(alone, found, case)


@pytest.mark.thorough
def test_so_are_those_of_more_rules_and_types() -> None:
    alone = run_alone("updates.py", "more", timeout_s=240)
    with Job("updates.py", "more") as job:
        found = job.results(timeout_s=280)
    for case in MORE:
        check(alone, found, case)


def test_accumulated_gradients_are_exchanged_in_every_second_step_only(
    found: list[dict[str, Any]],
) -> None:
    """What was added up goes through the servers as one, so eight steps make four exchanges."""
    for worker in found:
        assert worker["pushes-sgd"] == worker["pushes-clipped"] == 4
        assert worker["pushes-plain"] >= 8


def test_a_cycle_of_accumulation_goes_on_in_the_next_fit(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """What each worker has added up stays its own: it is not rank 0's, counted twice."""
    for worker in found:
        assert_close(worker["mid-cycle"], alone["mid-cycle"])


@pytest.mark.parametrize("how", ["fit", "loop"])
def test_an_empty_share_adds_nothing_to_what_is_accumulated(
    alone: dict[str, Any], found: list[dict[str, Any]], how: str
) -> None:
    """Nor does the penalty of its kernel count, whatever a loss over no rows is."""
    for worker in found:
        assert_close(worker[f"empty-share-{how}"], alone[f"empty-share-{how}"])
    assert np.isnan(found[1]["empty-share-losses"][-1]).all()


def test_an_overflow_on_one_worker_skips_the_step_on_all_as_in_one_process(
    alone: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """One of four batches overflows on rank 0 alone, in each of three epochs."""
    assert alone["scale"] == 2.0**15 / 8 and alone["applied"] == 9
    for worker in found:
        assert (worker["scale"], worker["applied"]) == (alone["scale"], alone["applied"])


@pytest.mark.parametrize("case", CLIPPED)
def test_clipping_each_share_gives_the_weights_of_the_sum_of_clipped_shares(
    alone: dict[str, Any], clipped_shares: list[dict[str, Any]], case: str
) -> None:
    """As TensorFlow's own strategies do it, if one asks for it; not those of one process."""
    first, second = clipped_shares
    assert first[case] == second[case]
    assert_close(first[case]["weights"], alone[f"{case}-by-hand"])
    with pytest.raises(AssertionError):
        assert_close(first[case]["weights"], alone[case]["weights"])


def test_clipping_shares_under_loss_scaling_is_refused(
    clipped_shares: list[dict[str, Any]],
) -> None:
    """The sums are there before the scale is taken out; clipping them is something else."""
    for worker in clipped_shares:
        assert "clip='local' cannot be combined with loss scaling" in worker["refused"]
