"""A job that trains under `poseidon-tf run` is asked to end, or its launcher is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job, script_named
from tests.support.traces import MARK, Traces, files, marked

pytestmark = pytest.mark.processes
START_S = 180.0  # Both workers import TensorFlow anew.
END_S = 30.0
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}


class Training:
    """Two workers under the launcher, of which each waits in the same step of the second epoch.

    A context manager. Args:
      folder: for the job's files.
      num_servers: 0 for a server beside each worker.
    """

    def __init__(self, folder: Path, *, num_servers: int) -> None:
        self._folder, self._num_servers = folder, num_servers
        self._stack = contextlib.ExitStack()
        self._temporary = folder / "temporary"  # Others may use the system's own meanwhile.
        self._temporary.mkdir()

    def __enter__(self) -> Training:
        before = files(self._temporary)
        with self._stack, socket.create_server(("127.0.0.1", 0)) as test:
            self.launcher = self._launch(f"127.0.0.1:{test.getsockname()[1]}")
            self._stack.callback(self._end)
            self._calls = [self._stack.enter_context(self._accepted(test)) for _ in range(2)]
            self.pids = [int(call.recv(100).split()[1]) for call in self._calls]
            (self._folder / "asked").touch()
            self.traces = Traces(str(self._folder), self._temporary, before)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _launch(self, address: str) -> subprocess.Popen[bytes]:
        servers = ["--servers", str(self._num_servers)] if self._num_servers else []
        script = [str(script_named("preempted.py")), "fit", str(self._folder), address]
        with (self._folder / "output").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "poseidon_tf", "run", "--workers", "2", *servers, *script],
                env={
                    **os.environ,
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "TMPDIR": str(self._temporary),
                    # Python keeps what it compiles of files that TensorFlow makes and removes.
                    "PYTHONDONTWRITEBYTECODE": "1",
                    MARK: str(self._folder),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _end(self) -> None:
        for process in marked(str(self._folder)):  # None, if the test has passed.
            process.kill()
        self.launcher.wait()

    def _accepted(self, test: socket.socket) -> socket.socket:
        """A worker's call, unless the launcher ends before that."""
        end: Any = os.pidfd_open(self.launcher.pid)
        ready, _, _ = select.select([test, end], [], [], START_S)
        os.close(end)
        assert ready == [test], "the job did not come to train:\n" + self.output()
        return test.accept()[0]

    def go_on(self) -> None:
        for call in self._calls:
            call.sendall(b"!")

    def output(self) -> str:
        return (self._folder / "output").read_text(errors="replace")

    def results(self, rank: int) -> dict[str, Any]:
        lead = f"[worker {rank}] RESULT "
        lines = (line for line in self.output().splitlines() if line.startswith(lead))
        return {
            name: json.loads(value)
            for name, value in (line.removeprefix(lead).split(" ", 1) for line in lines)
        }


def wait_asked(pid: int) -> None:
    """Until SIGTERM has come to this process: what was in place before it is in place again."""
    deadline_s = time.monotonic() + END_S
    while is_caught(pid, signal.SIGTERM):
        assert time.monotonic() < deadline_s, f"process {pid} was not asked to end"
        time.sleep(0.01)


def is_caught(pid: int, signum: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    assert caught
    return int(caught[1], 16) >> (signum - 1) & 1


def thorough(*case: object) -> Any:
    return pytest.param(*case, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    "num_servers, signum",
    [
        thorough(1, signal.SIGINT),
        (0, signal.SIGTERM),
        thorough(1, signal.SIGTERM),
        thorough(0, signal.SIGINT),
    ],
)
def test_a_launcher_that_is_asked_to_end_has_its_job_save_and_leaves_nothing(
    tmp_path: Path, num_servers: int, signum: signal.Signals
) -> None:
    """The code is the documented one, and the next run goes on in the epoch that was cut short; of
    this one no process, port, shared memory or temporary file stays."""
    with Training(tmp_path, num_servers=num_servers) as job:
        # Each listens for calls, and for lanes.
        assert len(job.traces.ports) == 2 * (2 + (num_servers or 2))
        assert len(job.traces.memories) == (0 if num_servers else 2)
        job.launcher.send_signal(signum)
        for pid in job.pids:
            wait_asked(pid)
        job.go_on()
        assert job.launcher.wait(timeout=END_S) == CODES[signum], job.output()
        job.traces.assert_gone(timeout_s=END_S)
        first, second = (job.results(rank) for rank in (0, 1))
    assert first["ended"] == second["ended"] and first["kernel"] == second["kernel"]
    epoch, batch, iterations = first["ended"]
    assert epoch == 1 and 3 <= batch < 49 and iterations == 50 + batch + 1
    metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
    assert metadata["epoch"] == 1
    with Job("preempted.py", "fit", str(tmp_path), "nobody:1", num_servers=num_servers) as job:
        for results in job.results():
            assert results["epochs"] == [1, 2]
            assert results["ended"][2] == 3 * 50


@pytest.mark.parametrize("num_servers", [0, thorough(1)])
def test_of_a_job_that_trains_nothing_stays_when_its_launcher_is_killed(
    tmp_path: Path, num_servers: int
) -> None:
    """Neither processes nor ports nor shared memory, nor the files that TensorFlow removes at its
    end: the members are asked to end before they are killed."""
    with Training(tmp_path, num_servers=num_servers) as job:
        # The launcher and its guardian too.
        assert len(job.traces.processes) == 2 + 2 + (num_servers or 2)
        assert any((tmp_path / "temporary").iterdir())  # Functions that TensorFlow has written.
        job.launcher.kill()
        for pid in job.pids:
            wait_asked(pid)
        job.go_on()
        job.traces.assert_gone(timeout_s=END_S)
