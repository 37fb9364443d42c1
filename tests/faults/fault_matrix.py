"""Who x what x when: one job that trains, one fault in it, and how the others must end.

The moment is exact: a worker stops where the test wants the fault (`scripts/faulty.py`) and goes on
once it has been done.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults_jobs import START_S, children, everyone, outputs, thread_errors

from tests.support.jobs import Job, Member
from tests.support.network import Network

MOMENTS = ("before the first step", "mid push", "mid pull", "between steps", "end of data")
MEMBERS = ("worker 0", "worker 1", "server", "own server")
KEEPALIVE_S = 5.0
PAUSE_S = 2.0  # Of those who are slow: less than what keepalive_s allows.
# A killed process's connections close at once; a silent one's are given up after keepalive_s, may
# be taken up again for two seconds, and the coordinator's word may take its time.
KILLED_S, SILENT_S = 10.0, KEEPALIVE_S + 2.0 + 5.0
# From the error of `fit` to the end of the process, which says goodbye to whoever may be gone.
LEAVING_S = 20.0


@dataclass(frozen=True)
class Case:
    """One fault: what happens to whom, and when."""

    who: str
    what: str
    when: str
    keepalive_s: float = KEEPALIVE_S

    def __str__(self) -> str:
        default = "" if self.keepalive_s == KEEPALIVE_S else f", keepalive_s={self.keepalive_s:g}"
        return f"{self.who}, {self.what}, {self.when}{default}"


@dataclass
class Outcome:
    """What came of it: seconds from the fault to the error of each survivor, or equal weights."""

    case: Case
    to_error_s: dict[str, float] = field(default_factory=dict)
    is_equal: bool = False

    def row(self) -> list[str]:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.to_error_s.items())
        result = times or ("same weights as undisturbed" if self.is_equal else "-")
        who, what, when = str(self.case).split(", ", 2)
        return [who, what, when, result]


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
        """The call of the worker that is where the case says."""
        ends = [os.pidfd_open(member.process.pid) for member in everyone(self.job)]
        ready, _, _ = select.select([self._calls, *ends], [], [], START_S)
        for fd in ends:
            os.close(fd)
        assert ready == [self._calls], f"nobody came to {self.case.when}\n{outputs(self.job)}"
        return self._calls.accept()[0]

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

    def names_of_victim(self) -> tuple[str, ...]:
        """How the others may call it; one is enough."""
        address = self.victim.address
        match self.case.who:
            case "worker 0":
                return f"worker rank 0 ({address})", f"worker rank 0 at {address}"
            case "worker 1":
                return (f"worker rank 1 ({address})",)
            case "server":
                return (f"server 0 ({address})",)
            case _:
                return (f"server 1 ({address.rpartition(':')[0]}:",)


# What happens, and the letter with which the worker that has stopped goes on.
Fault = Callable[[FaultyJob], None]


def _signal(signum: signal.Signals) -> Fault:
    return lambda faulty: os.kill(faulty.victim_pid, signum)


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
    "SIGKILL": (_signal(signal.SIGKILL), b"g"),
    "SIGSTOP": (_signal(signal.SIGSTOP), b"g"),
    "slow": (_signal(signal.SIGSTOP), b"g"),
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
        fault(faulty)
        since_s = time.monotonic()
        call.sendall(letter)
        call.close()
        if case.what == "slow":
            time.sleep(PAUSE_S)  # This is the fault.
            os.kill(pid, signal.SIGCONT)
        if case.what in HARMLESS:
            return _ended_well(faulty, undisturbed)
        return _failed(faulty, pid, since_s)


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
    return digest


def _ended_well(faulty: FaultyJob, undisturbed: str) -> Outcome:
    digests = [found["digest"] for found in faulty.job.results(timeout_s=60.0)]
    assert digests == [undisturbed] * 2, outputs(faulty.job)
    return Outcome(faulty.case, is_equal=True)


def _failed(faulty: FaultyJob, pid: int, since_s: float) -> Outcome:
    """Check that every survivor says in time what has happened, and ends."""
    case, job = faulty.case, faulty.job
    is_gone = case.what in ("SIGKILL", "SIGSTOP") and case.who != "own server"
    survivors = [m for m in everyone(job) if not (is_gone and m is faulty.victim)]
    limit_s = SILENT_S + case.keepalive_s - KEEPALIVE_S
    if case.what in ("SIGKILL", "exception", "exit(0)"):
        limit_s = KILLED_S
    codes = _exit_codes(survivors, until_s=since_s + limit_s + LEAVING_S)
    outcome = Outcome(case)
    for member, (code, ended_s) in zip(survivors, codes, strict=True):
        who = f"{member.role} {member.rank}" if member.role == "worker" else "server"
        what = f"{case}: {who} ended with {code}\n{outputs(job)}"
        if case.what == "exit(0)" and member is faulty.victim:
            assert code == 0, what
            continue
        assert code is not None and code > 0, what
        found = member.results() if member.role == "worker" else {}
        seconds = found.get("failed_at_s", ended_s) - since_s
        outcome.to_error_s[who] = seconds
        assert seconds < limit_s, f"{seconds:.1f} s; {what}"
        error = found.get("error", member.output())
        if case.what == "exception":
            assert "the disk is full" in error, what
        elif case.what == "exit(0)":
            assert f"rank {faulty.rank}" in error, what
        elif member is not faulty.victim or case.who == "own server":
            assert any(name in error for name in faulty.names_of_victim()), what
            if member.role == "worker":
                _says_where_it_was(case, member, error, what)
    assert not thread_errors(job), outputs(job)
    if case.what == "SIGSTOP":
        _goes_on_and_ends(faulty, pid)
    return outcome


def _says_where_it_was(case: Case, member: Member, error: str, what: str) -> None:
    """In which step this worker was; in the middle of one, also what it waited for."""
    was = "before its first step" if case.when == MOMENTS[0] else r"in step \d+"
    waited = r" and waited for '" if case.when == "mid push" else ""
    pattern = f"rank {member.rank} was {was}{waited}"
    assert re.search(pattern, error.replace("\\'", "'")), f"no {pattern!r} in {what}"


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
