"""What every process of a faulty job must say: whom it misses, where it was, what it waited for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.faults.faults_jobs import everyone
from tests.support.jobs import Member
from tests.support.scripts.moments import (
    BEFORE_ALL,
    EPOCHS,
    STEP,
    STEPS_PER_EPOCH,
    VARIABLES,
    WAITING_STEP,
)

if TYPE_CHECKING:
    from tests.faults.fault_matrix import FaultyJob


def names_who_is_missed(faulty: FaultyJob, member: Member, error: str, *, is_victim: bool) -> bool:
    """Whether the error says the role, rank and address of the victim; the victim's, of another."""
    if is_victim:
        others = [other for other in everyone(faulty.job) if other is not member]
        return any(name in error for other in others for name in faulty.names_of(other))
    if faulty.case.what == "exit(0)":  # It may have been in order, until somebody missed it.
        return f"worker rank {faulty.rank} " in error and faulty.victim.address in error
    return any(name in error for name in faulty.names_of_victim())


def says_where_it_was(faulty: FaultyJob, member: Member, error: str, what: str) -> None:
    """In which step this worker was; in the middle of one, also what it waited for."""
    when = faulty.case.when
    said = re.search(
        rf"rank {member.rank} was (?:before its first step|in step (\d+)) and waited for "
        r"((?:'[^']+'(?:, )?)*)",
        error,
    )
    assert said, f"not where it was, and what it waited for: {what}"
    if when == BEFORE_ALL:
        assert said[1] is None, what
        return
    assert said[1] and int(said[1]) in _possible_steps(faulty, member), f"step {said[1]}: {what}"
    names = re.findall(r"'([^']+)'", said[2])
    assert set(names) <= set(VARIABLES), f"{names} are not of the model: {what}"
    assert names or when not in WAITING_STEP, f"waited for no variable: {what}"


def _possible_steps(faulty: FaultyJob, member: Member) -> set[int]:
    """Where the fault and its moment leave this worker."""
    case = faulty.case
    if case.when == "end of data":  # Data are read ahead, and end while older steps are run.
        return set(range(STEPS_PER_EPOCH - 1, EPOCHS * STEPS_PER_EPOCH))
    # A pair on another server than the one that is gone may have been the last of its step.
    may_end = case.who == "own server" and case.when == "mid push"
    if member.rank == faulty.rank:  # It goes on from where it has stopped.
        return {STEP, STEP + (case.when != "mid push" or may_end)}
    # What a deaf worker sends still ends this one's step.
    may_end |= case.who in ("worker 0", "worker 1") and case.what == "hears nothing"
    waiting = WAITING_STEP[case.when]
    return {waiting, waiting + may_end}


def index_of_server(faulty: FaultyJob, member: Member) -> int | None:
    """Of the server whose last words are in this member's output, if there is one."""
    if member.role != "worker":
        return member.rank
    if faulty.job.servers or member is faulty.victim:
        return None
    return member.rank  # Its own.


def says_what_it_summed(faulty: FaultyJob, index: int, output: str, what: str) -> None:
    """Which sum was a server's last, of which step."""
    case = faulty.case
    said = re.search(
        rf"^server {index}: .*; (?:server {index} had summed nothing|"
        rf"the last sum of server {index} was '(\S+)#\d+' of step (\d+))$",
        output,
        re.MULTILINE | re.DOTALL,
    )
    assert said, f"server {index} does not say what it has summed: {what}"
    if case.when == BEFORE_ALL:
        assert said[1] is None, what
        return
    assert said[1] and any(said[1].endswith(name) for name in VARIABLES), what
    if case.when == "end of data":
        assert int(said[2]) in range(STEPS_PER_EPOCH - 2, EPOCHS * STEPS_PER_EPOCH), what
    else:  # A step may be summed before all workers know it.
        begun = WAITING_STEP[case.when]
        assert begun - 1 <= int(said[2]) <= STEP + 1, f"step {said[2]}: {what}"
