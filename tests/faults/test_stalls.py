"""A worker that is alive but owes something: the others say so again and again, then all end."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

WAIT_S = 120.0  # Far more than anything here takes.
STALLING, WAITING = 1, (0, 2)
SINCE = r"\d+ s \(since \d\d:\d\d:\d\d\)"


class Ear:
    """What one worker says, line by line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_S)
        self._connection, self._lines = connection, connection.makefile("r")
        self.warnings: list[str] = []
        self.rank = int(self.until("rank"))

    def until(self, kind: str, is_it: Callable[[str], object] = lambda value: True) -> Any:
        """Listen until it says this, and return what it said; warnings on the way are kept."""
        for line in self._lines:
            said, value = json.loads(line)
            if said == "WARNING":
                self.warnings.append(value)
            if said == kind and is_it(value):
                return value
        raise AssertionError(f"it ended without a word of {kind!r}; warnings: {self.warnings}")

    def go_on(self) -> None:
        self._connection.sendall(b"!")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


@dataclass
class Stalled:
    """What a job with three stalls said and found.

    Attributes:
      reports: by where rank 1 stood still, and by rank, the reports of this stall.
      errors: by rank, what `fit` raised in the end.
      server: what the server printed.
    """

    names: list[str]
    reports: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    errors: list[dict[str, str]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    server: str = ""


@pytest.fixture(scope="module")
def stalled() -> Stalled:
    """Three workers and a server."""
    with socket.create_server(("127.0.0.1", 0)) as test:
        test.settimeout(WAIT_S)
        address = f"127.0.0.1:{test.getsockname()[1]}"
        with Job("stalled.py", address, num_workers=3) as job:
            found = Stalled([f"worker rank {w.rank} ({w.address})" for w in job.workers])
            ears = {ear.rank: ear for ear in (Ear(test.accept()[0]) for _ in job.workers)}
            for where, wanted in WANTED.items():
                assert ears[STALLING].until("still") == where
                found.reports[where] = {}
                for rank in WAITING:
                    pattern = wanted.replace("SELF", re.escape(found.names[rank]))
                    pattern = pattern.replace("OTHER", re.escape(found.names[STALLING]))

                    def is_it(text: str, pattern: str = pattern) -> bool:
                        return re.fullmatch(pattern, text) is not None

                    found.reports[where][rank] = [
                        ears[rank].until("WARNING", is_it) for _ in range(2)
                    ]
                if where == "step":
                    for rank in WAITING:
                        ears[rank].until("failed")
                ears[STALLING].go_on()
            ears[STALLING].until("failed")
            found.codes = job.wait()
            for ear in ears.values():
                ear.close()
            outputs = "\n".join(m.output()[-4000:] for m in (*job.workers, *job.servers))
            assert all("error" in worker.results() for worker in job.workers), outputs
            found.errors = [worker.results()["error"] for worker in job.workers]
            found.server = job.servers[0].output()
            return found


# What the others report, by where rank 1 stands still; SELF is who speaks, OTHER is rank 1.
WANTED = {
    "data": f"SELF has waited {SINCE} for the others' end of dataset \\d+; not heard from OTHER",
    "gather": r".* waits? for OTHER to compare variables, .* \(gather \d+\): \d+ s of 16 s",
    "step": f"SELF has waited {SINCE} for 'sequential/.* of step \\d+; missing: .*from OTHER.*",
}


@pytest.mark.parametrize("where", WANTED)
def test_whoever_waits_reports_who_owes_what_since_when_and_again(
    stalled: Stalled, where: str
) -> None:
    """At the end of the data, in a comparison, and in a step: the same stall, longer each time."""
    for rank in WAITING:
        first, second = stalled.reports[where][rank]
        seconds = [int(re.search(r"(\d+) s ", text)[1]) for text in (first, second)]  # type: ignore[index]
        assert 2 <= seconds[0] < seconds[1] <= 16


def test_a_stall_ends_the_job_with_one_error_on_all_workers(stalled: Stalled) -> None:
    """One type and one text, on the stalled worker too, with who waited for whom and for what."""
    assert {error["failure_kind"] for error in stalled.errors} == {"StepTimeout"}
    assert {error["kind"] for error in stalled.errors} == {"InvalidArgumentError"}
    texts = set()
    for rank, error in enumerate(stalled.errors):
        text, separator, where = error["failure"].rpartition("; ")
        assert separator and error["failure"] in error["text"]
        texts.add(text)
        wanted = "nothing" if rank == STALLING else "'sequential/.*"
        assert re.fullmatch(rf"rank {rank} was in step \d+ and waited for {wanted}", where), where
    (text,) = texts
    waiting = "|".join(re.escape(stalled.names[rank]) for rank in WAITING)
    missing = rf"missing: 'sequential/.* of step \d+ from {re.escape(stalled.names[STALLING])}.*"
    wanted = rf"({waiting}) waited {SINCE} for 'sequential/.* of step \d+: {missing}"
    assert re.fullmatch(wanted, text), text
    assert f"server 0: {text}; the last sum of server 0 was " in stalled.server


def test_every_process_of_a_stalled_job_ends(stalled: Stalled) -> None:
    """With code 1: workers by the exception, the server as the job has failed."""
    assert stalled.codes == [1, 1, 1, 1]
