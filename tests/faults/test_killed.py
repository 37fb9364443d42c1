"""Whoever dies while the job trains: everyone else ends soon and says who it was."""

import time

import pytest

from tests.faults.faults_jobs import (
    Watched,
    children,
    everyone,
    exit_codes,
    outputs,
    thread_errors,
    training,
)

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "kind, index, name",
    [
        ("worker", 1, "worker rank 1 ({address})"),
        ("worker", 0, "the coordinator (worker rank 0 at {address})"),
        ("server", 0, "server 0 ({address})"),
    ],
)
def test_a_killed_member_ends_the_job_and_is_named(kind: str, index: int, name: str) -> None:
    """All others end in 10 s with a code that is not 0; `fit` raises an error with the name."""
    with training("train") as job:
        victim = (job.workers if kind == "worker" else job.servers)[index]
        others = [member for member in everyone(job) if member is not victim]
        victim.process.kill()
        killed_s = time.monotonic()
        codes = exit_codes(others, since_s=killed_s)
        assert 0 not in codes, outputs(job)
        expected = name.format(address=victim.address)
        for member in others:
            error = member.results()["error"] if member in job.workers else member.output()
            assert expected in error, f"{member.role} {member.rank}: {error}"
        assert not thread_errors(job), outputs(job)


def test_a_server_beside_a_killed_worker_ends_with_it() -> None:
    """A worker's own server is no orphan, and the rest of the job fails with the worker's name."""
    with training("train", num_servers=0) as job:
        survivor, victim = job.workers
        servers = Watched(children(victim.process.pid) + children(survivor.process.pid))
        assert len(servers) == 2
        victim.process.kill()
        killed_s = time.monotonic()
        assert 0 not in exit_codes([survivor], since_s=killed_s)
        assert servers.still_running(since_s=killed_s) == []
        assert f"worker rank 1 ({victim.address})" in survivor.results()["error"]
        assert not thread_errors(job), outputs(job)


def test_an_exception_in_one_worker_reaches_all() -> None:
    """A worker whose script raises takes the others down, and its text is in their errors."""
    with training("raise") as job:
        raised_s = time.monotonic()
        assert 0 not in exit_codes(everyone(job), since_s=raised_s), outputs(job)
        error = job.workers[0].results()["error"]
        assert f"worker rank 1 ({job.workers[1].address})" in error
        assert "ValueError: the disk is full" in error
        assert "the disk is full" in job.servers[0].output()
        assert not thread_errors(job), outputs(job)


def test_a_worker_that_leaves_early_fails_those_who_still_train() -> None:
    """Exit code 0 is no excuse: whoever waits for the leaver's share hears after which step."""
    with training("leave") as job:
        left_s = time.monotonic()
        waiting_code, leaver_code, server_code = exit_codes(everyone(job), since_s=left_s)
        assert leaver_code == 0
        assert waiting_code != 0 and server_code != 0
        name = f"worker rank 1 ({job.workers[1].address})"
        error = job.workers[0].results()["error"]
        # Peers name it before what they say of it, servers within.
        assert f"{name} left after step 3" in error or (
            f"{name}: rank 1 left after step 3" in error
        ), error
        assert not thread_errors(job), outputs(job)


@pytest.mark.parametrize("num_servers", [1, 0])
def test_a_job_that_is_done_leaves_nothing_behind(num_servers: int) -> None:
    """Workers and servers end with 0, no child stays, and no output holds a traceback."""
    with training("finish", num_servers=num_servers) as job:
        own_servers = Watched(pid for m in job.workers for pid in children(m.process.pid))
        assert len(own_servers) == (0 if num_servers else 2)
        assert not any(job.wait()), outputs(job)
        assert own_servers.still_running(since_s=time.monotonic()) == []
        assert "Traceback" not in outputs(job)
        assert not thread_errors(job), outputs(job)
