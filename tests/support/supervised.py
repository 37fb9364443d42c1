"""A job whose processes are started again one by one after they have failed, in a chosen order."""

from __future__ import annotations

import collections
import math
import os
import random
import select
import time
from collections.abc import Iterable, Sequence

from tests.support.jobs import Job, Member

MOST_DELAY_S = 3.0


def turns_of(seed: int, names: Iterable[str]) -> list[tuple[str, float]]:
    """An order of `names`, and for each of them a delay in seconds."""
    rng = random.Random(seed)
    order = sorted(names)
    rng.shuffle(order)
    return [(name, rng.uniform(0.0, MOST_DELAY_S)) for name in order]


def run_supervised(
    job: Job, *, timeout_s: float, turns: Sequence[tuple[str, float]] = ()
) -> list[str]:
    """Until every process has ended with 0; in which order which processes were started again.

    Nobody here knows what a job is: a process that ends with another code than 0 is started again
    with the same command and environment, while the others are still as they are.

    Args:
      turns: such as ("worker 1", 0.5): whoever is named is started again after those before it,
        and so many seconds after it might have been. Anybody else, and who fails once more, is
        started again at once.
    """
    deadline_s = time.monotonic() + timeout_s
    running = {os.pidfd_open(m.process.pid): m for m in (*job.workers, *job.servers)}
    failed: dict[str, Member] = {}
    pending, next_s = collections.deque(turns), math.inf
    restarted: list[str] = []
    while running or failed:
        for name in failed.keys() - {name for name, _ in pending}:
            _start_again(job, failed.pop(name), running, restarted)
        if pending and pending[0][0] in failed and next_s == math.inf:
            next_s = time.monotonic() + pending[0][1]
        left_s = min(deadline_s, next_s) - time.monotonic()
        for fd in select.select(list(running), [], [], max(0.0, left_s))[0]:
            member = running.pop(fd)
            os.close(fd)
            if member.process.wait():
                failed[_name(member)] = member
        now_s = time.monotonic()
        assert now_s < deadline_s, (
            f"after {timeout_s:g} s {[_name(m) for m in running.values()]} still run, and "
            f"{list(failed)} wait to be started again; {restarted=}"
        )
        if now_s >= next_s:
            _start_again(job, failed.pop(pending.popleft()[0]), running, restarted)
            next_s = math.inf
    return restarted


def _name(member: Member) -> str:
    return f"{member.role} {member.rank}"


def _start_again(
    job: Job, member: Member, running: dict[int, Member], restarted: list[str]
) -> None:
    restarted.append(_name(member))
    assert len(restarted) < 20, f"it fails again and again:\n{member.output()}"
    members = job.workers if member.role == "worker" else job.servers
    members[member.rank] = again = job.start(member.role, member.rank)
    running[os.pidfd_open(again.process.pid)] = again
