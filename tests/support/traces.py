"""What can be seen of a job's processes while they run, and must be gone when they have ended."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "POSEIDON_TF_TEST_MARK"
# The name of the memory that a worker shares with its own server; it is in no folder.
_MEMORY = "/memfd:poseidon_tf"


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have inherited this value of `MARK` and run."""
    found = []
    for process in psutil.process_iter():
        try:
            runs = process.status() != psutil.STATUS_ZOMBIE  # Init may take its time to reap.
            if runs and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # Not ours, or gone while we looked.
    return found


def files(temporary: Path) -> set[str]:
    """The names of files in this folder and in shared memory."""
    folders = (str(temporary), "/dev/shm")
    return {os.path.join(folder, name) for folder in folders for name in os.listdir(folder)}


def shared_memories(processes: Iterable[psutil.Process]) -> set[int]:
    """The nameless files in memory that they have open, by inode."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):  # It ended while we looked.
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # Closed meanwhile.
                    if os.readlink(link).startswith(_MEMORY):
                        found.add(link.stat().st_ino)
    return found


class Traces:
    """Of the processes that have inherited `mark`; made while they all run.

    Args:
      before: what `files(temporary)` was before the job.

    Attributes:
      processes: all of them.
      ports: on which they listen.
      memories: inodes of shared memory that has no name.
    """

    def __init__(self, mark: str, temporary: Path, before: set[str]) -> None:
        self._mark, self._temporary, self._before = mark, temporary, before
        self.processes = marked(mark)
        self._ends = {os.pidfd_open(each.pid): each for each in self.processes}
        self.ports = {
            each.laddr.port
            for process in self.processes
            for each in process.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
        }
        self.memories = shared_memories(self.processes)

    def assert_gone(self, *, timeout_s: float) -> None:
        """Fails unless all processes have ended `timeout_s` seconds from now, and all is gone."""
        deadline_s = time.monotonic() + timeout_s
        for fd in self._ends:
            select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))
            os.close(fd)
        left = marked(self._mark)  # Also what they have started meanwhile.
        assert not left, f"still running: {[each.cmdline() for each in left]}"
        for port in self.ports:
            with socket.create_server(("127.0.0.1", port)):
                pass  # Nobody else has it.
        assert not self.memories & shared_memories(psutil.process_iter())
        assert files(self._temporary) - self._before == set()
