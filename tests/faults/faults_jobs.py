"""Jobs that are training when the test does something to them, and how they must end."""

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.support.jobs import Job, Member

START_S = 90.0
END_S = 10.0


@contextlib.contextmanager
def training(
    how: str, *, num_servers: int = 1, meanwhile: Callable[[Job], None] = lambda job: None
) -> Iterator[Job]:
    """A job whose workers have all finished step 3, and go on once `meanwhile` has returned."""
    with socket.create_server(("127.0.0.1", 0)) as test:
        address = f"127.0.0.1:{test.getsockname()[1]}"
        with Job("endless.py", address, how, num_servers=num_servers) as job:
            workers = [_accepted(test, job) for _ in job.workers]
            meanwhile(job)
            for worker in workers:
                worker.sendall(b"!")
                worker.close()
            yield job


def _accepted(test: socket.socket, job: Job) -> socket.socket:
    """A worker's call, unless one of the job's processes ends before that."""
    ends: list[Any] = [os.pidfd_open(member.process.pid) for member in everyone(job)]
    ready, _, _ = select.select([test, *ends], [], [], START_S)
    for fd in ends:
        os.close(fd)
    assert ready == [test], "the job did not come to train:\n" + outputs(job)
    return test.accept()[0]


def everyone(job: Job) -> list[Member]:
    return [*job.workers, *job.servers]


def outputs(job: Job) -> str:
    return "\n".join(f"--- {m.role} {m.rank}\n{m.output()}" for m in everyone(job))


def exit_codes(members: Iterable[Member], *, since_s: float) -> list[int]:
    """Their exit codes, which must be there `END_S` after `since_s`."""
    return [
        member.process.wait(timeout=max(0.0, since_s + END_S - time.monotonic()))
        for member in members
    ]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It ended while we looked.
            after_name = (folder / "stat").read_text().rpartition(")")[2]
            if int(after_name.split()[1]) == pid:
                found.append(int(folder.name))
    return found


def first_ended(members: Iterable[Member], *, timeout_s: float) -> Member:
    """Wait until one of `members` has ended."""
    by_fd = {os.pidfd_open(member.process.pid): member for member in members}
    ended, _, _ = select.select(list(by_fd), [], [], timeout_s)
    for fd in by_fd:
        os.close(fd)
    assert ended, f"all still running after {timeout_s:g} s"
    return by_fd[ended[0]]


class Watched:
    """Processes that are not ours to wait for; made while they run."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._fds = {os.pidfd_open(pid): pid for pid in pids}

    def __len__(self) -> int:
        return len(self._fds)

    def still_running(self, *, since_s: float) -> list[int]:
        """Those that have not ended `END_S` after `since_s`."""
        running = []
        for fd, pid in self._fds.items():
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            left_s = max(0.0, since_s + END_S - time.monotonic())
            if not poll.poll(left_s * 1000):
                running.append(pid)
            os.close(fd)
        return running


def thread_errors(job: Job) -> list[str]:
    """What Python prints when a thread or a finalizer fails where nobody looks."""
    return re.findall(r"Exception (?:in thread|ignored).*", outputs(job))
