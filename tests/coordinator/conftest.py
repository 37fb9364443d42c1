"""A job with its coordinator, and one of its members over a bare connection."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from tests.coordinator.coordinator_jobs import WAIT_S, Job, RawMember


@pytest.fixture
def no_thread_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + WAIT_S
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:  # gRPC's own threads end a moment after the server.
        thread.join(max(deadline_s - time.monotonic(), 0.0))
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture
def job(no_thread_outlives_its_test: None) -> Iterator[Job]:
    with contextlib.closing(Job()) as job:
        yield job


@pytest.fixture
def raw(job: Job) -> Iterator[RawMember]:
    with contextlib.closing(RawMember(job.address)) as member:
        yield member
