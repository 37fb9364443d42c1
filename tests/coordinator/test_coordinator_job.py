"""Service and clients over real connections: how a job goes on and ends for everyone."""

import contextlib
from concurrent.futures import wait
from typing import Any

import pytest

from poseidon_tf.coordinator import codec, service
from poseidon_tf.coordinator.codec import decode_member_message
from poseidon_tf.coordinator.messages import (
    Failure,
    Gather,
    Gathered,
    MemberFailure,
    Pong,
    Role,
    RosterView,
)
from poseidon_tf.coordinator.presence import State
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import (
    DriftError,
    MemberError,
    PeerLost,
    ProtocolError,
    StepTimeout,
)
from tests.coordinator.coordinator_jobs import MEMBERS, WAIT_S, Job, RawMember

pytestmark = pytest.mark.connections


def test_gathers_of_many_names_at_once_come_back_in_rank_order(job: Job) -> None:
    workers = job.joined()[:2]
    names = ["plan", "digest", "seed"]
    parts = {
        (name, rank): job.pool.submit(
            worker.gather, name, f"{name}{rank}".encode(), timeout_s=WAIT_S
        )
        for name in names
        for rank, worker in reversed(list(enumerate(workers)))
    }
    for (name, _), answer in parts.items():
        assert answer.result(WAIT_S) == [f"{name}0".encode(), f"{name}1".encode()]


def test_announcements_reach_the_other_workers_in_order(job: Job) -> None:
    worker, *_ = job.joined()
    for payload in (b"1", b"2"):
        worker.announce("data", payload)
    assert job.next_heard("worker", 1) == (0, "data", b"1")
    assert job.next_heard("worker", 1) == (0, "data", b"2")
    assert job.heard["worker", 0].empty() and job.heard["server", 0].empty()


def test_a_message_to_all_is_encoded_once_and_holds_nobody_up(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be long: meanwhile the coordinator decides what else has come in."""
    encoded = []

    def encode(message: Any) -> bytes:
        job.pool.submit(lambda: job.service.failure).result(WAIT_S)
        encoded.append(type(message))
        return encode_for_real(message)

    encode_for_real = codec.encode_coordinator_message
    monkeypatch.setattr(service, "encode_coordinator_message", encode)
    workers = job.joined()[:2]
    for name in ("plan", "digest"):
        answers = [job.pool.submit(w.gather, name, b"x", timeout_s=WAIT_S) for w in workers]
        assert [answer.result(WAIT_S) for answer in answers] == [[b"x", b"x"]] * 2
    job.gives_up(workers[1], "disk full")
    assert isinstance(job.next_heard("server", 0), MemberError)
    assert [kind for kind in encoded if kind is not Pong] == [
        RosterView,
        Gathered,
        Gathered,
        Failure,
    ]


@pytest.mark.parametrize("farewell", ["abort", "close"])
def test_a_member_that_vanishes_fails_the_job_everywhere(
    job: Job, raw: RawMember, farewell: str
) -> None:
    raw.join("worker", 1)
    worker, _ = job.joined(members=[("worker", 0), ("server", 0)])
    waiting = job.pool.submit(worker.gather, "plan", b"", timeout_s=WAIT_S)
    {"abort": lambda: raw.stream.abort("killed"), "close": raw.stream.close}[farewell]()
    text = r"worker rank 1 \(raw:1\) closed its connection without a goodbye"
    with pytest.raises(PeerLost, match=text):
        waiting.result(WAIT_S)
    remaining: list[tuple[Role, int]] = [("worker", 0), ("server", 0)]
    for role, rank in remaining:
        assert isinstance(job.next_heard(role, rank), PeerLost)
    with pytest.raises(PeerLost, match=text):
        worker.gather("later", b"", timeout_s=WAIT_S)


def test_a_vanished_coordinator_fails_every_member(job: Job) -> None:
    worker, *_ = job.joined()
    waiting = job.pool.submit(worker.gather, "plan", b"", timeout_s=WAIT_S)
    job.server.stop(grace_s=0.0)
    text = rf"the coordinator \(worker rank 0 at {job.address}\) closed the connection"
    with pytest.raises(PeerLost, match=text):
        waiting.result(WAIT_S)
    for member in MEMBERS:
        assert isinstance(job.next_heard(*member), PeerLost)


def test_a_reported_failure_reaches_the_others_once_and_not_the_reporter(job: Job) -> None:
    zero, one, _ = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    job.gives_up(one, "disk full")
    text = r"worker rank 1 \(worker-1:1\) failed: disk full"
    with pytest.raises(MemberError, match=text):
        waiting.result(WAIT_S)
    assert str(job.next_heard("server", 0)) == "worker rank 1 (worker-1:1) failed: disk full"
    assert str(job.next_heard("worker", 0)) == "worker rank 1 (worker-1:1) failed: disk full"
    assert job.service.close(timeout_s=WAIT_S)  # After a failure nobody has to say goodbye.
    assert all(heard.empty() for heard in job.heard.values())


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_goodbye_of_who_gives_up_says_why_instead(job: Job, has_failed: bool) -> None:
    """Once, however it leaves then; and not where the job has failed of something else."""
    zero, one, _ = job.joined()
    stream: Any = one._stream
    said, send = [], stream.send

    def sent(message: bytes) -> None:
        said.append(decode_member_message(message))
        send(message)

    stream.send = sent
    if has_failed:
        zero.job_failure.fail(DriftError("'fc7' is not the same"))
        assert one.job_failure.over.wait(WAIT_S)
    one.job_failure.give_up(MemberError("disk full"))
    one.goodbye(41)
    one.close()
    assert said == [] if has_failed else said == [MemberFailure("disk full")]
    heard = job.next_heard("worker", 0)
    text = "'fc7' is not the same" if has_failed else "worker rank 1 (worker-1:1) failed: disk full"
    assert str(heard) == text


def test_an_error_that_a_worker_reports_comes_back_to_all_alike(job: Job) -> None:
    """One type and one text, whoever found it, in their waits too; of two the first counts."""
    zero, one, server = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    text = "server 0 (10.0.0.8:1): connection reset"
    one.job_failure.fail(PeerLost(text))
    whole = f"worker rank 1 (worker-1:1) reports: {text}"
    for member in (("worker", 0), ("worker", 1), ("server", 0)):
        heard = job.next_heard(*member)
        assert type(heard) is PeerLost and str(heard) == whole
    with pytest.raises(PeerLost, match="connection reset"):
        waiting.result(WAIT_S)
    zero.job_failure.fail(StepTimeout("too late"))  # The answer has come already.
    assert job.service.close(timeout_s=WAIT_S)
    assert all(heard.empty() for heard in job.heard.values())
    server.close()
    assert job.service.failure is not None and str(job.service.failure) == whole


def test_who_is_not_in_the_job_reports_to_nobody(job: Job) -> None:
    """Neither before it has joined nor once it leaves: no answer would come."""
    assert not job.client("worker", 0).job_failure.ask(DriftError("why"))
    zero, *_ = job.joined()
    zero.close()
    assert not zero.job_failure.ask(DriftError("why"))


def test_a_wait_that_its_worker_gives_up_ends(job: Job) -> None:
    """The coordinator has not said why; the worker's own error is raised."""
    zero, *_ = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    assert not wait([waiting], timeout=0.1).done
    zero.job_failure.settle(DriftError("why"))
    with pytest.raises(DriftError, match="why"):
        waiting.result(WAIT_S)


def test_goodbyes_are_heard_and_the_last_one_ends_the_servers(job: Job) -> None:
    zero, one, server = job.joined()
    assert one.goodbye(41)
    assert job.next_heard("worker", 0) == ("left", 1, 41)
    assert job.next_heard("server", 0) == ("left", 1, 41)
    assert zero.goodbye(42)
    assert job.next_heard("server", 0) == ("left", 0, 42)
    assert job.next_heard("server", 0) == "ended"
    assert job.service.close(timeout_s=WAIT_S)
    assert job.service.failure is None
    assert all(heard.empty() for heard in job.heard.values())
    server.close()


def test_leaving_while_another_waits_fails_that_gather_at_once(job: Job) -> None:
    zero, one, _ = job.joined()
    one.goodbye(41)
    with pytest.raises(MemberError, match=r"\(worker-1:1\) left after step 41 while rank 0 waits"):
        zero.gather("x", b"", timeout_s=WAIT_S)


def test_a_gather_that_one_worker_never_joins_ends_at_its_deadline(job: Job) -> None:
    zero, *_ = job.joined()
    waiting = job.pool.submit(zero.gather, "x", b"", timeout_s=60.0)
    while not waiting.done():  # The clock goes on until the coordinator has had the part for 60 s.
        job.clock.now_s += 61.0
        wait([waiting], timeout=0.05)
    with pytest.raises(
        StepTimeout,
        match=r"worker rank 0 \(worker-0:1\) waits for worker rank 1 \(worker-1:1\) to x",
    ):
        waiting.result(WAIT_S)


def test_a_worker_that_wants_to_stop_waits_until_the_other_has_offered(job: Job) -> None:
    """It is told to go on; both stop after the execution that the other adds."""
    first, second, _ = job.joined()
    for client in (first, second):
        assert not client.advance(Stopping.begin)
        assert not client.advance(Stopping.end)
    wanting = job.pool.submit(first.advance, Stopping.want)
    assert not wait([wanting], timeout=0.1).done
    assert not second.advance(Stopping.begin)
    assert wanting.result(WAIT_S) is False
    assert not first.advance(Stopping.begin)
    assert [client.advance(Stopping.end) for client in (first, second)] == [True, True]


def test_a_failure_ends_the_wait_for_a_stop(job: Job) -> None:
    """Whoever waits raises it."""
    first, second, _ = job.joined()
    second.advance(Stopping.begin)
    first.advance(Stopping.begin)
    second.advance(Stopping.end)
    wanting = job.pool.submit(second.advance, Stopping.want)
    assert not wait([wanting], timeout=0.1).done
    job.gives_up(first, "out of memory")
    with pytest.raises(MemberError, match="out of memory"):
        wanting.result(WAIT_S)


def test_a_stop_that_one_worker_never_offers_ends_at_its_deadline(job: Job) -> None:
    """The text names it."""
    first, second, _ = job.joined()
    for client in (first, second):
        client.advance(Stopping.begin)
    first.advance(Stopping.end)
    wanting = job.pool.submit(first.advance, Stopping.want)
    while not wanting.done():  # The clock goes on until the coordinator has had the offer for long.
        job.clock.now_s += 601.0
        wait([wanting], timeout=0.05)
    with pytest.raises(StepTimeout, match=r"together; that waits for worker rank 1 \(worker-1:1\)"):
        wanting.result(WAIT_S)


def test_closing_gives_up_on_members_that_stay(job: Job) -> None:
    job.joined()
    assert not job.service.close(timeout_s=0.01)
    for member in MEMBERS:
        assert "the coordinator is closing" in str(job.next_heard(*member))


def test_garbage_is_refused_to_its_sender_only(job: Job, raw: RawMember) -> None:
    raw.stream.send(b"\xff" * 9)
    assert isinstance(raw.next_heard().error, ProtocolError)
    assert raw.next_heard() is None  # A stranger has to go.
    with contextlib.closing(RawMember(job.address)) as member:
        member.join("worker", 1)
        job.joined(members=[("worker", 0), ("server", 0)])
        member.next_heard()  # The roster.
        member.stream.send(b"")
        member.join("worker", 1)
        member.say(Gather(name="x", payload=b"", timeout_s=60.0))
        member.say(Gather(name="x", payload=b"", timeout_s=60.0))
        for words in ("says nothing", "joined already", "contributed twice"):
            refusal = member.next_heard()
            assert isinstance(refusal, Failure)
            assert isinstance(refusal.error, ProtocolError)
            assert words in refusal.text
        assert job.service.failure is None


def test_the_loss_of_the_coordinator_names_it_whatever_the_reason(job: Job) -> None:
    """Also where its stream ends because of what it said."""
    client = job.client("worker", 1)
    client._presence.state = State.JOINED
    client.on_closed(ProtocolError("7 bytes that are no message"))
    heard = job.next_heard("worker", 1)
    assert type(heard) is ProtocolError
    name = f"the coordinator (worker rank 0 at {job.address})"
    assert str(heard) == f"{name}: 7 bytes that are no message"
