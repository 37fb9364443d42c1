"""Clipping applies to the sum of the gradients, as in one process, or to each share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes
KINDS = ("norm", "value", "global")


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process ends with, and what clipped shares of two workers come to by hand."""
    return run_alone("clipping.py")


def test_clipped_sums_give_the_weights_of_one_process_and_sfb_still_applies(
    alone: dict[str, Any],
) -> None:
    """By norm, by value and by the global norm."""
    with Job("clipping.py") as job:
        for found in job.results():
            for kind in KINDS:
                assert_close(found[kind], alone[kind])
            assert {
                found["schemes"][f"sequential{n}/{kind}_fc/kernel"]
                for n, kind in (("", "norm"), ("_1", "value"), ("_2", "global"))
            } == {"sfb"}


def test_clipped_shares_give_the_weights_of_their_sum(alone: dict[str, Any]) -> None:
    """The sum of both workers' gradients, each clipped by itself; others than a clipped sum's."""
    with Job("clipping.py", "local") as job:
        for found in job.results():
            for kind in KINDS:
                assert_close(found[kind], alone[f"{kind}-by-hand"])
                with pytest.raises(AssertionError):
                    assert_close(found[kind], alone[kind])
