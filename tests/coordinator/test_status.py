"""How a job is doing, asked from outside: what the coordinator knows, and who may ask."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click.testing
import pytest

from poseidon_tf.coordinator.asking import StatusQuestion
from poseidon_tf.coordinator.messages import Figures, MemberKey, ServerFigures
from poseidon_tf.coordinator.status import KnownFigures, MemberStatus, Status, status_of
from poseidon_tf.coordinator.status_codec import decode_status, encode_status
from poseidon_tf.errors import MemberError, ProtocolError, StartTimeout
from poseidon_tf.launcher.cli import main
from poseidon_tf.transport.connections import ConnectionSettings
from tests.coordinator.coordinator_jobs import WAIT_S, Job, RawMember
from tests.coordinator.rosters import (
    ADDRESSES,
    EVERYONE,
    S0,
    W0,
    W1,
    W2,
    complete_roster,
    join,
    make_roster,
    part,
)
from tests.support.ports import free_addresses

QUICK = Figures(steps=9, step_s=0.2, own_s=0.1, waiting_s=0.1, communicating_s=0.15)
SUMS = ServerFigures(
    sums=40, sums_per_s=8.0, summing=0.125, received_bytes=2**20, sent_bytes=2**21, last_rank=1
)
SUMS = replace(SUMS, last_part=0.75, late_s=0.05, oldest_wait_s=3.0, waits_for="rank 1: 'fc'")
SLOW = replace(QUICK, own_s=0.19, waiting_s=0.01)


def now(roster: object, told: dict[MemberKey, KnownFigures] | None = None) -> Status:
    """The status at 1030 s, of a job that began at 1000 s."""
    return status_of(roster, told or {}, now_s=1030.0, running_s=30.0, restarts=0)  # type: ignore[arg-type]


def test_before_everyone_is_here_it_says_who_is_missing() -> None:
    roster = make_roster()
    roster.join(join(W1))
    status = now(roster)
    assert status.phase == "starting"
    assert [m.presence for m in status.members] == ["expected", "here", *["expected"] * 3]
    assert [m.address for m in status.members] == [ADDRESSES[key] for key in EVERYONE]
    (wait,) = status.waits
    assert wait.startswith("waiting for worker rank 0 (10.0.0.1:2222), worker rank 2 (")
    assert status.arrivals == (
        "1 of 5 members are here; waiting for worker rank 0 (10.0.0.1:2222), worker rank 2 "
        "(10.0.0.3:2222), server 0 (10.0.0.8:2222) and 1 more"
    )
    assert now(complete_roster()).arrivals == "5 of 5 members are here"


def test_it_says_who_waits_for_whom_to_do_what() -> None:
    roster = complete_roster()
    roster.gather(W0, part("end the epoch"), 1000.0)
    roster.gather(W2, part("end the epoch"), 1000.0)
    status = now(roster)
    assert status.phase == "running"
    assert status.waits == (
        "worker rank 0 (10.0.0.1:2222) and 1 more wait for worker rank 1 (10.0.0.2:2222) to end "
        "the epoch: 30 s of 60 s",
    )


def test_a_failure_and_an_end_are_told() -> None:
    roster = complete_roster()
    roster.lost(S0, "reset")
    status = now(roster)
    assert status.phase == "failed" and "server 0 (10.0.0.8:2222)" in status.failure
    assert [m.presence for m in status.members] == ["here"] * 3 + ["left", "here"]
    roster = complete_roster()
    for member in (W0, W1, W2):
        roster.goodbye(member, 3)
    assert (now(roster).phase, now(roster).waits) == ("ended", ())


def test_the_slowest_is_who_has_the_longest_own_part_of_a_step() -> None:
    """Steps are as long on all workers; nobody is called slow where all are about alike."""
    told = {W0: KnownFigures(QUICK, 1029.0), W1: KnownFigures(SLOW, 1028.0)}
    status = now(complete_roster(), told)
    assert [m.figures_age_s for m in status.members[:2]] == [1.0, 2.0]
    assert status.slowest is not None
    assert status.slowest[0] is status.members[1]
    assert status.slowest[1] == pytest.approx(1.9)
    alike = {W0: KnownFigures(QUICK, 0.0), W1: KnownFigures(replace(QUICK, own_s=0.105), 0.0)}
    assert now(complete_roster(), alike).slowest is None
    assert now(complete_roster(), {W0: KnownFigures(QUICK, 0.0)}).slowest is None


def test_a_status_comes_back_equal() -> None:
    told = {
        W0: KnownFigures(replace(QUICK, waits_for="'fc'", sfb_bytes=2**63), 1029.0),
        S0: KnownFigures(SUMS, 1028.0),
    }
    assert now(complete_roster(), told).members[3].server_figures == SUMS
    roster = complete_roster()
    roster.gather(W0, part("predict"), 1000.0)
    for status in (now(roster, told), now(make_roster()), replace(now(roster), failure="x")):
        assert decode_status(encode_status(status)) == status


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_figures_that_cannot_be_are_refused(wrong: float) -> None:
    member = MemberStatus(
        role="worker", rank=0, address="", presence="here", figures=replace(QUICK, own_s=wrong)
    )
    with pytest.raises(ProtocolError, match="own_s is "):
        decode_status(encode_status(Status(members=(member,), running_s=1.0)))
    for figures in (replace(SUMS, late_s=wrong), replace(SUMS, last_rank=-2)):
        server = replace(member, role="server", figures=None, server_figures=figures)
        with pytest.raises(ProtocolError, match="late_s is |last_rank is "):
            decode_status(encode_status(Status(members=(server,), running_s=1.0)))


@pytest.fixture
def started() -> Iterator[Job]:
    built = Job(restarts=2)
    yield built
    built.close()


@pytest.mark.connections
def test_it_is_told_over_a_connection_before_during_and_after(started: Job) -> None:
    """The answer waits for nobody: it comes while members are missing."""
    question = StatusQuestion(started.address, ConnectionSettings())
    try:
        status = question.ask(timeout_s=WAIT_S)
        assert (status.phase, status.restarts) == ("starting", 2)
        first, *_ = started.joined()
        assert first.tell(QUICK)
        while (status := question.ask(timeout_s=WAIT_S)).members[0].figures is None:
            pass
        assert status.phase == "running" and status.members[0].figures == QUICK
        started.clock.now_s += 7.0
        assert question.ask(timeout_s=WAIT_S).members[0].figures_age_s == 7.0
        first.job_failure.fail(MemberError("disk full"))
        assert started.next_heard("worker", 1)
        status = question.ask(timeout_s=WAIT_S)
        assert status.phase == "failed" and "disk full" in status.failure
    finally:
        question.close()


@pytest.mark.connections
def test_a_stranger_may_tell_no_figures(started: Job) -> None:
    member = RawMember(started.address)
    try:
        member.say(QUICK)
        assert "has not joined" in str(member.next_heard().error)
    finally:
        member.close()


@pytest.mark.connections
def test_each_role_tells_figures_of_its_own(started: Job) -> None:
    """A worker that speaks as a server is refused, and the other way round; nothing is kept."""
    first, _, server = started.joined()
    assert first.tell(SUMS) and server.tell(QUICK)
    for member, refusal in ((first, "sent a ServerFigures"), (server, "sent a Figures")):
        assert member.job_failure.over.wait(WAIT_S)
        assert refusal in str(member.job_failure.failure)
    question = StatusQuestion(started.address, ConnectionSettings())
    try:
        members = question.ask(timeout_s=WAIT_S).members
        assert {(m.figures, m.server_figures) for m in members} == {(None, None)}
    finally:
        question.close()


@pytest.mark.connections
def test_the_command_shows_it_as_a_table_and_as_json(started: Job) -> None:
    """The exit code says whether the job has failed."""
    first, second, server = started.joined()
    assert server.tell(SUMS) and first.tell(QUICK) and second.tell(SLOW)
    runner = click.testing.CliRunner()
    told: dict[str, Any] = {}
    while len([m for m in told.get("members", []) if m["figures"] or m["server_figures"]]) < 3:
        done = runner.invoke(main, ["status", started.address, "--once", "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.output)
    assert told["phase"] == "running" and told["slowest"]["rank"] == 1
    shown = runner.invoke(main, ["status", started.address, "--once"])
    assert shown.exit_code == 0
    assert shown.output.startswith("running: ") and "3 of 3 members here, restart 2" in shown.output
    assert "slowest: worker rank 1 (worker-1:1), 1.9 times the fastest" in shown.output
    (row,) = [line for line in shown.output.splitlines() if "worker-0:1" in line]
    (of_server,) = [line for line in shown.output.splitlines() if "50 ms" in line]
    assert (
        of_server.split()
        == (
            "server 0 40 8 12.5 % 1.0 MiB 2.0 MiB worker rank 1: 75 % of sums, by 50 ms "
            "rank 1: 'fc' (3 s)"
        ).split()
    )
    assert row.split()[3:] == "worker-0:1 here 9 0 200 ms 100 ms 100 ms 33 % 0 B 0 B".split()
    first.job_failure.fail(MemberError("disk full"))
    assert started.next_heard("worker", 1)
    done = runner.invoke(main, ["status", started.address])  # It ends with the job.
    assert done.exit_code == 1 and "disk full" in done.output


@pytest.mark.connections
def test_where_nobody_answers_the_command_says_so() -> None:
    (address,) = free_addresses(1)
    done = click.testing.CliRunner().invoke(main, ["status", address, "--timeout", "0.5"])
    assert done.exit_code == 1
    assert f"error: the coordinator at {address} cannot be reached in 0.5 s" in done.output
    question = StatusQuestion(address, ConnectionSettings())
    with pytest.raises(StartTimeout):
        question.ask(timeout_s=0.1)
    question.close()
