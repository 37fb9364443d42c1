"""Strategies that are constructed in a thread, one after the other, in a process that goes on."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

JobAndFound: TypeAlias = tuple[Job, dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def job() -> Iterator[JobAndFound]:
    """The job, ended, and what its workers found."""
    with Job("in_threads.py", num_workers=2, num_servers=0) as job:
        chief, worker = job.results()
        yield job, chief, worker


def test_an_exception_that_ends_the_thread_reaches_the_other_workers(job: JobAndFound) -> None:
    """As one that ends the main thread does: with its text and its place, and at once."""
    ended, chief, worker = job
    assert worker["raised"] == "no more"
    name = f"worker rank 1 ({ended.cluster['worker'][1]})"
    assert f"{name} failed: ArithmeticError: no more" in chief["raised"]
    assert "in_threads.py" in chief["raised"]
    output = ended.workers[1].output()
    assert "Exception in thread" in output and "the job failed: worker rank 1" in output


def test_the_worker_has_left_with_its_thread(job: JobAndFound) -> None:
    """Nothing of it is in the way of the next strategy of the process, which trains."""
    _, chief, worker = job
    for found in (chief, worker):
        assert found["after_raised"] == found["after_trained"] == [[True, True], []]
        assert found["trained"] == 2
