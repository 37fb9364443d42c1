"""No shape of one worker's batch makes it ask for an agreement to which nobody comes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


class Found(NamedTuple):
    """What one process found, what each worker did, and how often a gradient went whole."""

    alone: dict[str, Any]
    workers: list[dict[str, Any]]
    num_whole: int


@pytest.fixture(
    scope="module",
    params=[(2, 0, 12), pytest.param((3, 100, 60), marks=pytest.mark.thorough)],
    ids=["2-workers", "3-workers"],
)
def found(request: pytest.FixtureRequest) -> Found:
    num_workers, first, count = request.param
    args = [str(number) for number in (first, count, num_workers)]
    with Job("odd_shapes.py", *args, num_workers=num_workers) as job:
        workers = job.results(timeout_s=280)
        outputs = [worker.output() for worker in job.workers]
    num_whole = sum(len(re.findall("so it travels whole", output)) for output in outputs)
    return Found(run_alone("odd_shapes.py", *args), workers, num_whole)


def test_random_models_have_the_bits_of_one_process(found: Found) -> None:
    """One worker's rows and tokens differ from the others' in every step, and may be 0 or 1."""
    weights = {name: value for name, value in found.alone.items() if name.startswith("weights")}
    assert len(weights) >= 12
    for worker in found.workers:
        assert {name: worker[name] for name in weights} == weights


def test_every_scheme_took_part(found: Found) -> None:
    """So did gradients that one worker alone computed in another way than was agreed on."""
    assert all(worker["schemes"] == ["ps", "rows", "sfb"] for worker in found.workers)
    assert found.num_whole > 0
