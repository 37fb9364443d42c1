"""A server that a worker starts beside itself ends early: everyone says which, and why."""

import os
import re
import signal
import socket
import time

import pytest

from tests.faults.faults_jobs import children, exit_codes, outputs, thread_errors, training
from tests.support.jobs import Job

pytestmark = pytest.mark.processes
LOCAL = ("127.0.0.1", 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_server_that_cannot_start_ends_the_start_for_all(rank: int) -> None:
    """Nobody waits until `start_s` for it: all raise what it says, with its worker's name."""
    with socket.create_server(LOCAL) as other, socket.create_server(LOCAL) as test:
        port = other.getsockname()[1]
        test.settimeout(90.0)
        address = f"127.0.0.1:{test.getsockname()[1]}"
        with Job("own_server.py", address, str(rank), str(port), num_servers=0) as job:
            for call in [test.accept()[0] for _ in job.workers]:
                call.sendall(b"!")
                call.close()
            codes = job.wait(timeout_s=60.0)
            found = [worker.results() for worker in job.workers]
            address = job.workers[rank].address
            assert 0 not in codes and len(found) == 2, outputs(job)
            for each in found:
                assert each["error"] == [
                    "ConfigError",
                    f"server {rank}, which worker rank {rank} ({address}) has started beside "
                    f"itself, has ended: no free port on 127.0.0.1 between {port} and {port}",
                ]
            first_s, second_s = (each["failed_at_s"] for each in found)
            assert abs(first_s - second_s) < 5.0
            assert not thread_errors(job), outputs(job)


def test_a_server_that_is_killed_while_the_job_trains_is_named_with_the_signal() -> None:
    """All raise the same: the server with its address, whose it is, and what its worker saw."""
    with training("train", num_servers=0) as job:
        (pid,) = children(job.workers[1].process.pid)
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        assert 0 not in exit_codes(job.workers, since_s=killed_s), outputs(job)
        pattern = (
            rf"server 1 \(127\.0\.0\.1:\d+\), which worker rank 1 \({job.workers[1].address}\) has "
            r"started beside itself, has ended: it was killed by SIGKILL; if nobody sent it"
        )
        for worker in job.workers:
            assert re.search(pattern, worker.results()["error"]), outputs(job)
        assert not thread_errors(job), outputs(job)
