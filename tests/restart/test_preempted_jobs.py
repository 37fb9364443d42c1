"""SIGTERM: all workers stop after the same step, the chief saves, a rerun goes on from there."""

import contextlib
import json
import os
import select
import signal
import socket
import time

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes
TIMEOUT_S = 120.0
END_S = 20.0  # What is left of an epoch would take longer than it may.


@contextlib.contextmanager
def asked(how, folder, ask, *, num_servers=1):
    """The job, once all workers have waited in one step, `ask(job, pids)` was called, and all
    have gone on."""
    with socket.create_server(("127.0.0.1", 0)) as test:
        address = f"127.0.0.1:{test.getsockname()[1]}"
        with Job("preempted.py", how, str(folder), address, num_servers=num_servers) as job:
            calls = [accepted(test, job) for _ in job.workers]
            (folder / "asked").touch()
            ask(job)
            for call in calls:
                call.sendall(b"!")
                call.close()
            yield job


def accepted(test, job):
    """A worker's call, unless one of the job's processes ends before that."""
    ends = [os.pidfd_open(m.process.pid) for m in (*job.workers, *job.servers)]
    ready, _, _ = select.select([test, *ends], [], [], TIMEOUT_S)
    for fd in ends:
        os.close(fd)
    assert ready == [test], "the job did not come to train:\n" + outputs(job)
    return test.accept()[0]


def outputs(job):
    members = (*job.workers, *job.servers)
    return "\n".join(f"--- {m.role} {m.rank}\n{m.output()[-4000:]}" for m in members)


def codes(job):
    started_s = time.monotonic()
    members = (*job.workers, *job.servers)
    return [m.process.wait(timeout=max(0.0, started_s + END_S - time.monotonic())) for m in members]


def sigterm_to_worker_1(job):
    job.workers[1].process.send_signal(signal.SIGTERM)


def sigterm_to_the_server(job):
    job.servers[0].process.send_signal(signal.SIGTERM)


def test_sigterm_on_one_worker_ends_fit_on_all_and_a_rerun_goes_on(tmp_path):
    """Both end with 143 after the same step; the backup has that step's values; `on_train_end`,
    which would delete it, has not run. The rerun begins with the epoch that was cut short."""
    with asked("fit", tmp_path, sigterm_to_worker_1) as job:
        assert codes(job) == [143, 143, 143], outputs(job)
        first, second = (worker.results() for worker in job.workers)
        assert first["ended"] == second["ended"], outputs(job)
        epoch, batch, iterations = first["ended"]
        assert epoch == 1 and 3 <= batch < 49 and iterations == 50 + batch + 1
        assert first["kernel"] == second["kernel"]
        assert "on_train_end" not in first and "on_train_end" not in second
        who = f"worker rank 1 ({job.workers[1].address}) was asked to end (SIGTERM)"
        assert who in job.workers[0].output() and who in job.workers[1].output()
        assert f"saved in {tmp_path}/backup" in job.workers[0].output()
    metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
    assert metadata["epoch"] == 1
    with Job("preempted.py", "fit", str(tmp_path), "nobody:1") as job:
        for results in job.results(timeout_s=TIMEOUT_S):
            assert results["epochs"] == [1, 2]
            assert results["ended"][2] == iterations + 2 * 50
            assert results["threads"] == []  # After `shutdown`.
    assert not (tmp_path / "backup").exists()


def test_sigterm_ends_a_custom_loop_on_all_workers_after_the_same_step(tmp_path):
    """`stop_requested` is True on both at once, and stays so; a server beside a worker is no
    reason to fail."""
    with asked("loop", tmp_path, sigterm_to_worker_1, num_servers=0) as job:
        assert codes(job) == [143, 143], outputs(job)
        first, second = (worker.results() for worker in job.workers)
        assert first["steps"] == second["steps"] and 5 <= first["steps"] <= 7
        assert first["again"] and second["again"]


@pytest.mark.thorough
def test_sigterm_outside_of_training_ends_the_worker_and_the_others_hear_why(tmp_path):
    """It ends by the signal, as any program does; the others' error names it."""
    with asked("idle", tmp_path, sigterm_to_worker_1) as job:
        assert codes(job) == [1, -signal.SIGTERM, 1], outputs(job)
        why = f"worker rank 1 ({job.workers[1].address}) failed: it was terminated (SIGTERM)"
        assert why in job.workers[0].output() and why in job.servers[0].output()


@pytest.mark.thorough
def test_a_server_that_is_asked_to_end_has_the_workers_stop_first(tmp_path):
    """It serves until they have saved, and ends with 143 like them."""
    with asked("fit", tmp_path, sigterm_to_the_server) as job:
        assert codes(job) == [143, 143, 143], outputs(job)
        assert f"server 0 ({job.servers[0].address}) was asked to end" in outputs(job)
        assert (tmp_path / "backup").exists()
