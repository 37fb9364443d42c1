"""SIGTERM: all workers stop after the same step, the chief saves, a rerun goes on from there."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job, Member

pytestmark = pytest.mark.processes
TIMEOUT_S = 120.0
END_S = 20.0  # What is left of an epoch would take longer than it may.


@contextlib.contextmanager
def asked(
    how: str, folder: Path, ask: Callable[[Job], None], *, num_servers: int = 1
) -> Iterator[Job]:
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


def accepted(test: socket.socket, job: Job) -> socket.socket:
    """A worker's call, unless one of the job's processes ends before that."""
    ends: list[Any] = [os.pidfd_open(m.process.pid) for m in members(job)]
    ready, _, _ = select.select([test, *ends], [], [], TIMEOUT_S)
    for fd in ends:
        os.close(fd)
    assert ready == [test], "the job did not come to train:\n" + outputs(job)
    return test.accept()[0]


def members(job: Job) -> tuple[Member, ...]:
    return (*job.workers, *job.servers)


def outputs(job: Job) -> str:
    return "\n".join(f"--- {m.role} {m.rank}\n{m.output()[-4000:]}" for m in members(job))


def codes(job: Job) -> list[int]:
    deadline_s = time.monotonic() + END_S
    return [m.process.wait(max(0.0, deadline_s - time.monotonic())) for m in members(job)]


def said(job: Job, names: Sequence[str]) -> str:
    """A pattern of what messages call the members of these names."""
    roles = {"worker": "worker rank", "ps": "server"}
    called = (
        f"{roles[m.role]} {m.rank} ({m.address})"
        for m in members(job)
        if f"{m.role} {m.rank}" in names
    )
    return "|".join(map(re.escape, called))


def sigterm_to(*names: str) -> Callable[[Job], None]:
    """Asks these members, such as "ps 0", to end."""

    def ask(job: Job) -> None:
        for member in members(job):
            if f"{member.role} {member.rank}" in names:
                member.process.send_signal(signal.SIGTERM)

    return ask


@pytest.mark.parametrize(
    "who, num_servers",
    [
        (["worker 0"], 1),  # Which hosts the coordinator, and writes the backup.
        pytest.param(["ps 0", "worker 0", "worker 1"], 1, marks=pytest.mark.thorough),
        pytest.param(["worker 1"], 1, marks=pytest.mark.thorough),
        pytest.param(["worker 1", "worker 0"], 0, marks=pytest.mark.thorough),
        pytest.param(["ps 0"], 1, marks=pytest.mark.thorough),
    ],
    ids=lambda each: " and ".join(each) if isinstance(each, list) else f"{each} servers",
)
def test_sigterm_ends_fit_on_all_and_a_rerun_goes_on(
    tmp_path: Path, who: list[str], num_servers: int
) -> None:
    """All end with 143 after the same step; the backup has that step's values; `on_train_end`,
    which would delete it, has not run. The rerun goes on after that step, in the epoch that was
    cut short."""
    with asked("fit", tmp_path, sigterm_to(*who), num_servers=num_servers) as job:
        assert codes(job) == [143] * (2 + num_servers), outputs(job)
        first, second = (worker.results() for worker in job.workers)
        assert first["ended"] == second["ended"], outputs(job)
        epoch, batch, iterations = first["ended"]
        assert epoch == 1 and 3 <= batch < 49 and iterations == 50 + batch + 1
        assert first["kernel"] == second["kernel"]
        assert "on_train_end" not in first and "on_train_end" not in second
        for worker in job.workers:
            assert re.search(rf"({said(job, who)}) was asked to end \(SIGTERM\)", worker.output())
        there = f"to go on after batch {batch + 1} of epoch 1"
        assert f"saved in {tmp_path}/backup, {there}" in job.workers[0].output()
    metadata = json.loads((tmp_path / "backup" / "training_metadata.json").read_text())
    assert metadata["epoch"] == 1
    with Job("preempted.py", "fit", str(tmp_path), "nobody:1", num_servers=num_servers) as job:
        for results in job.results(timeout_s=TIMEOUT_S):
            assert results["epochs"] == [1, 2]
            assert results["ended"][2] == 3 * 50
            assert results["threads"] == []  # After `shutdown`.
    assert not (tmp_path / "backup").exists()


def test_sigterm_ends_a_custom_loop_on_all_workers_after_the_same_step(tmp_path: Path) -> None:
    """`stop_requested` is True on both at once, and stays so; a server beside a worker is no
    reason to fail."""
    with asked("loop", tmp_path, sigterm_to("worker 1"), num_servers=0) as job:
        assert codes(job) == [143, 143], outputs(job)
        first, second = (worker.results() for worker in job.workers)
        assert first["steps"] == second["steps"] and 5 <= first["steps"] <= 7
        assert first["again"] and second["again"]


@pytest.mark.thorough
def test_sigterm_outside_of_training_ends_the_worker_and_the_others_hear_why(
    tmp_path: Path,
) -> None:
    """It ends by the signal, as any program does; the others' error names it."""
    with asked("idle", tmp_path, sigterm_to("worker 1")) as job:
        assert codes(job) == [1, -signal.SIGTERM, 1], outputs(job)
        why = f"worker rank 1 ({job.workers[1].address}) failed: it was terminated (SIGTERM)"
        assert why in job.workers[0].output() and why in job.servers[0].output()
