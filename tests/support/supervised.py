"""A job whose processes are started again one by one, each as soon as it has failed."""

from __future__ import annotations

import os
import select
import time

from tests.support.jobs import Job, Member


def run_supervised(job: Job, *, timeout_s: float) -> list[str]:
    """Until every process has ended with 0; in which order which processes were started again.

    Nobody here knows what a job is: a process that ends with another code than 0 is started again
    with the same command and environment, while the others are still as they are.
    """
    deadline_s = time.monotonic() + timeout_s
    running = {os.pidfd_open(m.process.pid): m for m in (*job.workers, *job.servers)}
    restarted = []
    while running:
        ready, _, _ = select.select(list(running), [], [], max(0.0, deadline_s - time.monotonic()))
        assert ready, f"after {timeout_s:g} s still running: {[m.role for m in running.values()]}"
        for fd in ready:
            member = running.pop(fd)
            os.close(fd)
            if member.process.wait() == 0:
                continue
            restarted.append(f"{member.role} {member.rank}")
            assert len(restarted) < 20, f"it fails again and again:\n{member.output()}"
            again = _start_again(job, member)
            running[os.pidfd_open(again.process.pid)] = again
    return restarted


def _start_again(job: Job, member: Member) -> Member:
    members = job.workers if member.role == "worker" else job.servers
    members[member.rank] = again = job.start(member.role, member.rank)
    return again
