"""The session's waits: lost connections, deadlines, and the end of all watching."""

import logging
import re
import threading

import numpy as np
import pytest

from poseidon_tf.errors import (
    DriftError,
    MemberError,
    PeerLost,
    PoseidonError,
    ProtocolError,
    StepTimeout,
)
from tests.session.session_bench import WAIT_S, MakeBench

ONE = [np.ones(1)]
TIME = r"\d\d:\d\d:\d\d"
STALL = (
    rf"worker rank 3 \(10.0.0.3:1\) has waited \d s \(since ({TIME})\) for 'a', 'b' and 1 more of "
    r"step 0; missing: rank 1; its last events are in \S+\.flight\.trace\.json"
)


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (ProtocolError("refused: twice"), ProtocolError, "refused: twice"),
        (MemberError("rank 1 left after step 4"), MemberError, "rank 1 left"),
        (KeyError("stray"), PoseidonError, r"KeyError\('stray'\)"),
    ],
)
def test_a_refusal_fails_at_once(
    bench: MakeBench, error: Exception, kind: type[PoseidonError], text: str
) -> None:
    """Only a lost connection is worth waiting for the coordinator's word; the peer is named."""
    job = bench(verdict_s=1000.0)
    job.session.lost(1, error, who="worker rank 1 (10.0.0.7:5001)")
    failure = job.session.failure
    assert failure is not None
    with pytest.raises(kind, match=r"^worker rank 1 \(10.0.0.7:5001\): .*" + text):
        raise failure


def test_a_lost_connection_fails_when_nobody_says_why(bench: MakeBench) -> None:
    """After the time for a verdict its own error counts."""
    job = bench(verdict_s=0.05)
    route, delivered = job.route("fc7")
    route.push(ONE)
    job.session.lost(1, PeerLost("connection lost"), who="worker rank 1")
    assert job.session.failure is None
    assert delivered.next()[2].startswith("worker rank 1: connection lost; rank 3 was ")
    assert isinstance(job.session.failure, PeerLost)


def test_the_coordinators_verdict_counts_more_than_a_lost_connection(
    bench: MakeBench,
) -> None:
    """Within the time for a verdict the coordinator's error is the failure, and stays it."""
    job = bench(verdict_s=0.05)
    before = set(threading.enumerate())
    job.session.lost(1, PeerLost("connection lost"), who="worker rank 1")
    timers = set(threading.enumerate()) - before
    job.job_failure.settle(MemberError("worker 1 was killed"))
    for timer in timers:
        timer.join(WAIT_S)
    assert timers and str(job.session.failure).startswith("worker 1 was killed; ")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_peer_that_has_left_may_close_its_connections(bench: MakeBench, when: str) -> None:
    """Its goodbye, before or while a verdict is awaited, makes the loss no failure."""
    job = bench(verdict_s=0.05)
    before = set(threading.enumerate())
    if when == "before":
        job.session.peer_left(1)
    job.session.lost(1, PeerLost("connection lost"), who="worker rank 1")
    job.session.peer_left(1)
    for timer in set(threading.enumerate()) - before:
        timer.join(WAIT_S)
    assert job.session.failure is None


def test_a_server_is_not_excused_by_a_worker_that_left(bench: MakeBench) -> None:
    """A lost server fails the session, whoever has said goodbye."""
    job = bench(verdict_s=0.01)
    route, delivered = job.route("fc7")
    route.push(ONE)
    for rank in range(4):
        job.session.peer_left(rank)
    job.session.lost(None, PeerLost("connection lost"), who="server 0")
    assert delivered.next()[2].startswith("server 0: connection lost; ")


def test_a_wait_that_nobody_ends_ends_at_the_deadline(bench: MakeBench) -> None:
    """The watch fails the oldest wait by name and step, and says who owes what."""
    job = bench(step_s=0.1, describe_missing=lambda: "missing: 'fc7#0' from rank 1")
    (fc7, of_fc7), (conv, of_conv) = job.route("fc7"), job.route("conv")
    fc7.push(ONE)
    job.session.done(fc7, 0, ONE)
    assert of_fc7.next() == (0, ONE, "")
    fc7.push(ONE)
    conv.push(ONE)
    step, _, text = of_fc7.next()
    wanted = (
        rf"worker rank 3 \(10.0.0.3:1\) waited \d s \(since {TIME}\) for 'fc7' of step 1: "
        "missing: 'fc7#0' from rank 1"
    )
    (report,) = job.reports
    assert step == 1 and re.fullmatch(wanted, report)
    assert text.startswith(f"{report}; rank 3 was ")
    assert of_conv.next() == (0, [], text)
    assert isinstance(job.session.failure, StepTimeout)


def test_a_wait_ends_even_if_nobody_can_be_named(bench: MakeBench) -> None:
    """An error while asking who owes the contribution does not stop the watch."""

    def describe_missing() -> None:
        raise ValueError("channel closed")

    job = bench(step_s=0.1, describe_missing=describe_missing)
    route, delivered = job.route("fc7")
    route.push(ONE)
    assert "who owes it is unknown: ValueError('channel closed')" in delivered.next()[2]


def test_a_long_wait_is_reported_before_its_deadline(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the variables, the step and who owes it while there is still hope, again and
    again, and since when."""
    job = bench(
        step_s=0.8,
        stall_report_s=0.1,
        stall_repeat_s=0.1,
        describe_missing=lambda: "missing: rank 1",
    )
    route, delivered = job.route("a and 2 more", variables=["a", "b", "c"])
    with caplog.at_level(logging.WARNING, "poseidon_tf"):
        route.push(ONE)
        assert delivered.next()[2]
    reports = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    found = [re.fullmatch(STALL, report) for report in reports]
    since = {each and each[1] for each in found}
    assert all(found) and len(reports) >= 2 and len(since) <= 2  # Rounded to seconds.


def test_what_breaks_after_the_end_is_no_failure(bench: MakeBench) -> None:
    """A closed session neither fails nor reports, and results that still come are delivered."""
    job = bench()
    route, delivered = job.route("fc7")
    route.push(ONE)
    job.session.close()
    job.session.lost(None, PeerLost("connection lost"), who="server 0")
    job.session.fail(MemberError("too late"))
    assert job.session.failure is None and job.reports == []
    job.session.done(route, 0, ONE)
    assert delivered.next() == (0, ONE, "")


def test_closing_ends_every_thread_at_once(bench: MakeBench) -> None:
    """Neither the watch nor a connection's long wait for a verdict outlives the session."""
    before = set(threading.enumerate())
    job = bench(verdict_s=1000.0, step_s=1000.0)
    job.session.lost(1, PeerLost("connection lost"), who="worker rank 1")
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    job.session.close()
    for thread in started:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in started)


def test_the_error_that_the_coordinator_heard_first_is_everyones(
    bench: MakeBench,
) -> None:
    """Whatever this worker found itself: its waits and whoever raises get the other's error."""
    first = StepTimeout("worker rank 0 (10.0.0.0:1) waited 9 s")
    job = bench(verdict_s=WAIT_S, answer=lambda error: first)
    route, delivered = job.route("fc7")
    route.push(ONE)
    raised = job.session.fail_together(DriftError("after step 4: 'fc7' is not the same"))
    assert type(raised) is StepTimeout and raised is job.session.failure
    assert str(raised).startswith(f"{first}; rank 3 was ")
    assert delivered.next()[2] == str(raised)


def test_an_error_that_the_coordinator_does_not_answer_is_kept(bench: MakeBench) -> None:
    """Nothing waits for longer than it has time; of two errors the first is reported, and kept."""
    job = bench(verdict_s=0.1, answer=lambda error: None)
    route, delivered = job.route("fc7")
    route.push(ONE)
    first = DriftError("after step 4: 'fc7' is not the same")
    job.session.fail(first)
    assert job.session.failure is None
    raised = job.session.fail_together(StepTimeout("too late"))
    assert type(raised) is DriftError and str(raised).startswith(f"{first}; rank 3 was ")
    assert job.reports == [str(first)] and delivered.next()[2] == str(raised)


def test_nothing_is_sent_once_a_worker_has_given_up(bench: MakeBench) -> None:
    """A later step's contribution would be taken for that of the step which broke here."""
    job = bench(verdict_s=1000.0, answer=lambda error: None)
    route, delivered = job.route("fc7")
    first, last = job.route("conv1", num_replicas=2), job.route("fc8")
    first[0].push(ONE, replica=0)
    job.session.fail(DriftError("after step 0"))
    first[0].push(ONE, replica=1)
    route.push(ONE)
    last[0].push(ONE)
    assert route.syncer.sent == first[0].syncer.sent == last[0].syncer.sent == []
    assert delivered.none()
    job.job_failure.settle(StepTimeout("worker rank 0 waited"))
    for _, deliveries in (first, last, (route, delivered)):
        assert deliveries.next()[2] == str(job.session.failure)


def test_an_error_that_waits_for_its_answer_counts_when_the_worker_leaves(
    bench: MakeBench,
) -> None:
    """It leaves as one that has failed."""
    job = bench(verdict_s=1000.0, answer=lambda error: None)
    job.session.fail(DriftError("after step 4"))
    job.session.close()
    assert isinstance(job.session.failure, DriftError)


def test_a_wait_that_is_no_sum_is_reported_too(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """As at the end of the data: again and again, with who lets this worker wait."""
    job = bench(stall_report_s=0.1, stall_repeat_s=0.1, step_s=0.4)
    asked = threading.Semaphore(0)

    def owing() -> str:
        asked.release()
        return "not heard from worker rank 1"

    with (
        caplog.at_level(logging.WARNING, "poseidon_tf"),
        job.session.waiting_for("the others' end of dataset 5", owing),
        job.session.waiting_for("all workers to end (gather 2)"),
    ):
        assert all(asked.acquire(timeout=WAIT_S) for _ in range(3))
    wanted = (
        rf"worker rank 3 \(10.0.0.3:1\) has waited \d s \(since {TIME}\) for the others' end of "
        "dataset 5; not heard from worker rank 1"
    )
    reports = [record.message for record in caplog.records]
    assert len(reports) >= 2 and all(re.fullmatch(wanted, report) for report in reports)
    assert job.session.failure is None  # Such a wait has an end of its own.


@pytest.mark.parametrize("is_told", [True, False])
def test_a_server_that_did_not_answer_is_named_by_the_coordinator(
    bench: MakeBench, is_told: bool
) -> None:
    """Whoever asked it raises the coordinator's word if that comes, else what happened here."""
    job = bench(verdict_s=WAIT_S if is_told else 0.05)
    lost = PeerLost("Register to 10.0.0.7:5001: no answer")
    told = MemberError("server 0 (10.0.0.7:5001) closed its connection")
    if is_told:
        word = threading.Timer(0.05, job.job_failure.settle, [told])
        word.start()
        job.session.lost(None, lost, who="server 0 (10.0.0.7:5001)")
        raised = job.job_failure.outcome(lost)
        assert isinstance(raised, MemberError) and str(raised).startswith(f"{told}; rank 3 was")
        word.join()
    else:
        job.session.lost(None, lost, who="server 0 (10.0.0.7:5001)")
        raised = job.job_failure.outcome(lost)
        assert isinstance(raised, PeerLost)
        assert str(raised).startswith(f"server 0 (10.0.0.7:5001): {lost}; rank 3 was")
