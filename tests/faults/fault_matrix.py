"""Who x what x when: one job that trains, one fault in it, and how the others must end.

The moment is exact: a worker stops where the test wants the fault (`scripts/faulty.py`) and goes on
once it has been done.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.fault_errors import (
    index_of_server,
    names_who_is_missed,
    says_what_it_summed,
    says_where_it_was,
)
from tests.faults.faults_jobs import START_S, Watched, children, everyone, outputs, thread_errors
from tests.support.jobs import Job, Member
from tests.support.network import Network
from tests.support.scripts.moments import BEFORE_ALL, WAITING_STEP

MOMENTS = (BEFORE_ALL, "mid push", "mid pull", "between steps", "end of data")
MEMBERS = ("worker 0", "worker 1", "server", "own server")
KEEPALIVE_S = 5.0
PAUSE_S = 2.0  # Of those who are slow: less than what keepalive_s allows, five sixths of it.
SAME_WEIGHTS = "same weights as undisturbed"
# A killed process's connections close at once, and by then every process has ended. A silent one's
# are given up after four thirds of keepalive_s, may be taken up again for two seconds, and the
# coordinator's word may take its time.
KILLED_S, TAKEN_UP_S, WORD_S = 10.0, 2.0, 5.0
# From the error of `fit` to the end of the process, which says goodbye to whoever may be gone.
LEAVING_S = 20.0


@dataclass(frozen=True)
class Case:
    """One fault: what happens to whom, and when; and how tensors travel in that job."""

    who: str
    what: str
    when: str
    keepalive_s: float = KEEPALIVE_S
    pause_s: float = PAUSE_S
    protocol: str = "grpc+tcp"

    def __str__(self) -> str:
        keepalive = "" if self.keepalive_s == KEEPALIVE_S else f", keepalive_s={self.keepalive_s:g}"
        pause = "" if self.pause_s == PAUSE_S else f", for {self.pause_s:g} s"
        protocol = "" if self.protocol == "grpc+tcp" else f", {self.protocol}"
        return f"{self.who}, {self.what}, {self.when}{keepalive}{pause}{protocol}"


@dataclass
class Outcome:
    """What came of it: seconds from the fault to the error of each survivor, or equal weights."""

    case: Case
    to_error_s: dict[str, float] = field(default_factory=dict)
    is_equal: bool = False

    def row(self) -> tuple[str, str, str, str]:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.to_error_s.items())
        result = times or (SAME_WEIGHTS if self.is_equal else "-")
        who, what, when = str(self.case).split(", ", 2)
        return who, what, when, result


class FaultyJob:
    """A job of two workers that stops where the case says."""

    def __init__(self, case: Case, network: Network | None) -> None:
        self.case, self.network = case, network
        self._folder = tempfile.TemporaryDirectory()
        path = str(Path(self._folder.name) / "test.socket")
        self._calls = socket.socket(socket.AF_UNIX)
        self._calls.bind(path)
        self._calls.listen()
        self.rank = 0 if case.who == "worker 0" else 1  # Who stops.
        self.job = Job(
            "faulty.py",
            path,
            str(self.rank),
            case.when,
            f"{case.keepalive_s:g}",
            num_servers=0 if case.who == "own server" else 1,
            environ={"POSEIDON_PROTOCOL": case.protocol},
            servers_run_script=True,  # So that the script's deadlines are theirs too.
            network=network,
        )

    def __enter__(self) -> FaultyJob:
        self.job.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.job.__exit__(*exception)
        self._calls.close()
        self._folder.cleanup()

    def wait_stopped(self) -> socket.socket:
        """The call of the worker that is where the case says; the other one waits for it."""
        words = {"stopped", "waiting"} if self.case.when in WAITING_STEP else {"stopped"}
        calls: dict[str, socket.socket] = {}
        ends: list[Any] = [os.pidfd_open(member.process.pid) for member in everyone(self.job)]
        while set(calls) != words:
            ready, _, _ = select.select([self._calls, *ends], [], [], START_S)
            came = f"{[*calls]} of {words} came to {self.case.when}"
            assert ready == [self._calls], f"{came}\n{outputs(self.job)}"
            call = self._calls.accept()[0]
            calls[call.recv(len("stopped"), socket.MSG_WAITALL).decode()] = call
        for fd in ends:
            os.close(fd)
        if "waiting" in calls:
            calls["waiting"].close()
        return calls["stopped"]

    @property
    def victim(self) -> Member:
        """The member that the fault is about; for an own server the worker beside it."""
        members = self.job.servers if self.case.who == "server" else self.job.workers
        return members[0 if self.case.who == "server" else self.rank]

    @property
    def victim_pid(self) -> int:
        if self.case.who != "own server":
            return self.victim.process.pid
        (pid,) = children(self.victim.process.pid)
        return pid

    @property
    def victim_host(self) -> int:
        return {"worker 0": 0, "worker 1": 1, "server": 2}[self.case.who]

    def names_of(self, member: Member) -> tuple[str, ...]:
        """How the others may call it: role, rank and address; one is enough."""
        address = member.address
        if member.role != "worker":
            return (f"server {member.rank} ({address})",)
        name = f"worker rank {member.rank} ({address})"
        return (name, f"worker rank 0 at {address}") if member.rank == 0 else (name,)

    def names_of_victim(self) -> tuple[str, ...]:
        if self.case.who == "own server":  # Its port is of its own choice.
            return (f"server {self.rank} ({self.victim.address.rpartition(':')[0]}:",)
        return self.names_of(self.victim)


# What happens, and the letter with which the worker that has stopped goes on.
Fault = Callable[[FaultyJob], None]


def _kill(faulty: FaultyJob) -> None:
    os.kill(faulty.victim_pid, signal.SIGKILL)


def _stop(faulty: FaultyJob) -> None:
    """Until none of its threads runs any more: one that has not noticed yet could go on."""
    process = psutil.Process(faulty.victim_pid)
    process.suspend()
    deadline_s = time.monotonic() + 20.0
    while {psutil.Process(thread.id).status() for thread in process.threads()} != {
        psutil.STATUS_STOPPED
    }:
        assert time.monotonic() < deadline_s, f"{process} does not stop"
        time.sleep(0.001)  # Nothing tells.


def _nothing(faulty: FaultyJob) -> None:
    """The worker does it itself, when it goes on."""


def _cut(way: Callable[[Network, int], None]) -> Fault:
    def cut(faulty: FaultyJob) -> None:
        assert faulty.network is not None
        way(faulty.network, faulty.victim_host)

    return cut


def _reset(network: Network, host: int) -> None:
    assert network.reset_connections(host), "there was no connection to reset"


FAULTS: dict[str, tuple[Fault, bytes]] = {
    "SIGKILL": (_kill, b"g"),
    "SIGSTOP": (_stop, b"g"),
    "slow": (_stop, b"g"),
    "connections reset": (_cut(_reset), b"g"),
    "exception": (_nothing, b"r"),
    "exit(0)": (_nothing, b"x"),
    "link down": (_cut(lambda network, host: network.set_link(host, is_up=False)), b"g"),
    "hears nothing": (_cut(lambda network, host: network.set_deaf(host)), b"g"),
    "not heard": (_cut(lambda network, host: network.set_mute(host)), b"g"),
}
ON_HOSTS = ("connections reset", "link down", "hears nothing", "not heard")
HARMLESS = ("slow", "connections reset")  # The result is that of an undisturbed run.


def run_case(case: Case, *, undisturbed: str) -> Outcome:
    """Run one case and check how it ends.

    Args:
      undisturbed: the digest of the weights of a run without a fault.
    """
    with _network(case) as network, FaultyJob(case, network) as faulty:
        call = faulty.wait_stopped()
        fault, letter = FAULTS[case.what]
        pid = faulty.victim_pid
        processes = Watched(
            pid
            for member in everyone(faulty.job)
            for pid in (member.process.pid, *children(member.process.pid))
        )
        fault(faulty)
        since_s = time.monotonic()
        call.sendall(letter)
        call.close()
        if case.what == "slow":
            time.sleep(case.pause_s)  # This is the fault.
            os.kill(pid, signal.SIGCONT)
        if case.what in HARMLESS:
            return _ended_well(faulty, undisturbed)
        outcome = _failed(faulty, pid, since_s)
        if case.what == "SIGKILL":
            running = processes.still_running(since_s=since_s)
            assert not running, f"{running} still run {KILLED_S:g} s later\n{outputs(faulty.job)}"
        return outcome


@contextmanager
def _network(case: Case) -> Iterator[Network | None]:
    if case.what not in ON_HOSTS:
        yield None
        return
    with Network(3) as network:
        yield network


def undisturbed_digest(*, num_servers: int) -> str:
    """The weights of a run in which nothing happens."""
    with Job("faulty.py", "nobody", "-1", "never", "30", num_servers=num_servers) as job:
        digests = {found["digest"] for found in job.results()}
    (digest,) = digests
    return str(digest)


def _ended_well(faulty: FaultyJob, undisturbed: str) -> Outcome:
    digests = [found["digest"] for found in faulty.job.results(timeout_s=60.0)]
    assert digests == [undisturbed] * 2, outputs(faulty.job)
    return Outcome(faulty.case, is_equal=True)


def _failed(faulty: FaultyJob, pid: int, since_s: float) -> Outcome:
    """Check that every survivor says in time what has happened, and ends."""
    case, job = faulty.case, faulty.job
    is_gone = case.what in ("SIGKILL", "SIGSTOP") and case.who != "own server"
    survivors = [m for m in everyone(job) if not (is_gone and m is faulty.victim)]
    limit_s = case.keepalive_s * 4 / 3 + TAKEN_UP_S + WORD_S
    if case.what in ("SIGKILL", "exception", "exit(0)"):
        limit_s = KILLED_S
    leaving_s = 0.0 if case.what == "SIGKILL" else LEAVING_S
    codes = _exit_codes(survivors, until_s=since_s + limit_s + leaving_s)
    outcome = Outcome(case)
    for member, (code, ended_s) in zip(survivors, codes, strict=True):
        who = f"{member.role} {member.rank}" if member.role == "worker" else "server"
        what = f"{case}: {who} ended with {code}\n{outputs(job)}"
        is_victim = member is faulty.victim and case.who != "own server"
        if case.what == "exit(0)" and is_victim:
            assert code == 0, what
            continue
        assert code is not None and code > 0, what
        found = member.results() if member.role == "worker" else {}
        seconds = found.get("failed_at_s", ended_s) - since_s
        outcome.to_error_s[who] = seconds
        # What a server says comes when it ends.
        assert seconds < limit_s + (member.role != "worker") * leaving_s, f"{seconds:.1f} s; {what}"
        error = found.get("error", member.output()).replace("\\'", "'")
        if case.what == "exception":
            assert "the disk is full" in error, what
            if is_victim:
                continue  # It raises its own.
        assert names_who_is_missed(faulty, member, error, is_victim=is_victim), what
        if member.role == "worker":
            says_where_it_was(faulty, member, error, what)
        if (index := index_of_server(faulty, member)) is not None:
            says_what_it_summed(faulty, index, member.output(), what)
    assert not thread_errors(job), outputs(job)
    if case.what == "SIGSTOP":
        _goes_on_and_ends(faulty, pid)
    return outcome


def _exit_codes(members: Sequence[Member], *, until_s: float) -> list[tuple[int | None, float]]:
    """For each its code, None if it still runs, and when it ended."""
    ends = {os.pidfd_open(member.process.pid): member for member in members}
    found: dict[int, tuple[int | None, float]] = {}
    waiting = set(ends)
    while waiting and (left_s := until_s - time.monotonic()) > 0:
        for fd in select.select(list(waiting), [], [], left_s)[0]:
            found[id(ends[fd])] = ends[fd].process.wait(), time.monotonic()
            waiting.discard(fd)
    for fd in ends:
        os.close(fd)
    return [found.get(id(member), (None, until_s)) for member in members]


def _goes_on_and_ends(faulty: FaultyJob, pid: int) -> None:
    """Whoever was stopped finds the job over when it goes on, and ends too."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # Its parent has seen to that already.
    os.kill(pid, signal.SIGCONT)
    has_ended = select.select([end], [], [], LEAVING_S + KEEPALIVE_S)[0]
    os.close(end)
    assert has_ended, f"it goes on after all others have ended\n{outputs(faulty.job)}"
    if faulty.case.who != "own server":
        assert faulty.victim.process.wait() != 0
