"""Workers wait for each other where a program says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[str]]:
    """What the workers find, and print."""
    with Job("barriers.py", str(tmp_path_factory.mktemp("barriers")), num_servers=0) as job:
        job.wait()
        return [each.results() for each in job.workers], [each.output() for each in job.workers]


def test_what_rank_0_saves_before_it_is_there_for_all_behind_it(job: Any) -> None:
    """Three times one file."""
    for found in job[0]:
        assert found["loaded"] == [0, 1, 2]


def test_it_is_refused_where_it_would_not_wait(job: Any) -> None:
    """In a function it would be called when that is traced; in a replica, once for each."""
    for found in job[0]:
        for place in ("traced", "replica"):
            kind, text = found[place]
            assert "outside of tf.function and of strategy.run" in text, (kind, text)


COMES = (
    r"worker rank 0 \(\S+\) waits for worker rank 1 \(\S+\) to call strategy.barrier\('last'\) .*"
)
INSTEAD = r"; worker rank 1 \(\S+\) waits for all workers to compare variables, .*"


def test_who_does_not_come_is_named_with_what_it_waits_for_instead(job: Any) -> None:
    """After as long as a step may take; all workers raise it."""
    for found in job[0]:
        kind, text = found["missed"]
        assert kind == "StepTimeout"
        assert re.match(rf"{COMES}\d s of 4 s{INSTEAD}", text), text


def test_a_wait_is_reported_once_on_each_worker(job: Any) -> None:
    """Although the server that each has started prints to the same place."""
    for output in job[1]:
        reports = [line for line in output.splitlines() if re.fullmatch(COMES, line)]
        assert len([line for line in reports if "before its first step" not in line]) == 1, output


def test_one_worker_waits_for_nobody(tmp_path: Path) -> None:
    """It goes on at once."""
    assert run_alone("barriers.py", str(tmp_path))["loaded"] == [0, 1, 2]
