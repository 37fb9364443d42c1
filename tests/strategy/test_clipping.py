"""Clipping applies to the sum of the gradients, as in one process."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes
KINDS = ("norm", "value", "global")


def differs(found: list[list[float]], expected: list[list[float]]) -> bool:
    """Whether some weight is not that of one process."""
    return not all(
        np.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(found, expected, strict=True)
    )


def test_clipped_sums_give_the_weights_of_one_process_and_sfb_still_applies() -> None:
    """By norm, by value and by the global norm; clipping each share first gives others."""
    alone = run_alone("clipping.py")
    with Job("clipping.py") as job:
        for found in job.results():
            assert not [kind for kind in KINDS if differs(found[kind], alone[kind])]
            assert {
                found["schemes"][f"sequential{n}/{kind}_fc/kernel"]
                for n, kind in (("", "norm"), ("_1", "value"), ("_2", "global"))
            } == {"sfb"}
    with Job("clipping.py", "local") as job:
        for found in job.results():
            assert [kind for kind in KINDS if differs(found[kind], alone[kind])] == list(KINDS)
