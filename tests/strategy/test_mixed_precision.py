"""Loss scaling: all workers skip a step, or none."""

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


def test_an_overflow_on_one_worker_skips_the_step_on_all() -> None:
    """Three of four steps are applied, the scale is halved once, the weights are equal.

    The gradient overflows in a kernel that travels as factors: their product is not finite.
    """
    with Job("mixed.py") as job:
        first, second = job.results()
    assert first == second
    assert set(first["schemes"].values()) == {"sfb"}
    assert first["finite"]
    assert first["steps_applied"] == 3
    assert first["scale"] == 2.0**15 / 2
