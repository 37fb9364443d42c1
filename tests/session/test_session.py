"""The session: every push gets one answer, and the first failure is everyone's."""

import threading
import time

import numpy as np

from poseidon_tf.errors import MemberError, ProtocolError, StepTimeout
from poseidon_tf.session.statistics import PeerStatistics
from poseidon_tf.transport.base import Traffic
from tests.session.session_bench import FailingSyncer, MakeBench

ONE = [np.ones(1)]


def test_a_result_is_delivered_once(bench: MakeBench) -> None:
    """A second result for a step, or one for a step that nobody began, is nobody's."""
    job = bench()
    route, delivered = job.route("fc7")
    assert route.push(ONE) == 0
    assert route.syncer.sent == [(0, ONE)]
    job.session.done(route, 0, ONE)
    job.session.done(route, 0, ONE)
    job.session.done(route, 1, ONE)
    assert delivered.next() == (0, ONE, "")
    assert delivered.none()


def test_steps_are_counted_per_route(bench: MakeBench) -> None:
    """Each route's step is the number of its own pushes, and results may come in any order."""
    job = bench()
    (fc7, of_fc7), (conv, of_conv) = job.route("fc7"), job.route("conv")
    assert [fc7.push(ONE), fc7.push(ONE), conv.push(ONE)] == [0, 1, 0]
    for route, step in ((fc7, 1), (conv, 0), (fc7, 0)):
        job.session.done(route, step, ONE)
    assert [of_fc7.next()[0], of_fc7.next()[0], of_conv.next()[0]] == [1, 0, 0]


def test_pushes_of_many_threads_are_sent_in_the_order_of_their_steps(
    bench: MakeBench,
) -> None:
    """No step is counted twice or overtaken."""
    route, _ = bench().route("fc7")

    def push() -> None:
        for _ in range(50):
            route.push(ONE)

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [step for step, _ in route.syncer.sent] == list(range(200))


def test_a_failure_reaches_everything_that_waits_and_will_wait(bench: MakeBench) -> None:
    """All waiting steps of all routes get it; a later push gets it and is not sent.

    With it comes where this worker was.
    """
    job = bench()
    routes = [job.route(name) for name in ("fc7", "conv")]
    for route, _ in routes:
        route.push(ONE)
    routes[0][0].push(ONE)
    job.session.fail(MemberError("worker 1 has died"))
    text = "worker 1 has died; rank 3 was before its first step and waited for 'fc7', 'conv'"
    answers = [routes[0][1].next(), routes[0][1].next(), routes[1][1].next()]
    assert [(step, error) for step, _, error in answers] == [
        (0, text),
        (1, text),
        (0, text),
    ]
    route, delivered = job.route("late")
    assert route.push(ONE) == 0
    assert delivered.next() == (0, [], text)
    assert route.syncer.sent == []
    job.session.done(routes[0][0], 0, ONE)
    assert routes[0][1].none()


def test_the_first_failure_counts(bench: MakeBench) -> None:
    """It is kept and reported once, and no later one replaces it.

    The others hear the error alone: where this worker was matters to it.
    """
    job = bench(last_step=lambda: 41)
    first = MemberError("worker 1 has died")
    job.session.fail(first)
    kept = job.session.failure
    job.session.fail(StepTimeout("worker 0 waited"))
    job.session.lost(0, ProtocolError("nonsense"), who="worker rank 0")
    assert job.session.failure is kept
    assert kept is not None and kept.__cause__ is first
    assert type(kept) is MemberError
    assert str(kept) == "worker 1 has died; rank 3 was in step 41 and waited for nothing"
    assert job.reports == ["worker 1 has died"]


def test_what_the_coordinator_said_is_not_reported_back(bench: MakeBench) -> None:
    """A failure that came from it fails the session all the same."""
    job = bench()
    job.job_failure.settle(MemberError("worker 1 has died"))
    assert job.reports == [] and str(job.session.failure).startswith("worker 1 has died; ")


def test_a_failure_tells_what_else_was_waited_for(bench: MakeBench) -> None:
    """Variables of a coalesced unit by name, the first two of them; then waits that are no sums."""
    job = bench(last_step=lambda: 41)
    route, delivered = job.route("a and 3 more", variables=["a", "b", "c", "d"])
    route.push(ONE)
    with job.session.waiting_for("all workers to be done (gather 1)"):
        pass
    with job.session.waiting_for("all workers to end (gather 2)"):
        job.session.fail(MemberError("worker 1 has died"))
    where = (
        "rank 3 was in step 41 and waited for 'a', 'b' and 2 more, all workers to end (gather 2)"
    )
    assert delivered.next()[2] == f"worker 1 has died; {where}"


def test_a_push_that_cannot_be_sent_fails_the_session(bench: MakeBench) -> None:
    """The error names the variable, and whoever pushed gets it as its answer."""
    job = bench()
    route, delivered = job.route("fc7", FailingSyncer)
    route.push(ONE)
    step, _, error = delivered.next()
    assert step == 0 and error.startswith("push of 'fc7': OSError('no way out'); rank 3 was ")


def test_waiting_counts_from_the_last_push_to_the_last_result(bench: MakeBench) -> None:
    """Time in which something was still to be pushed is not waiting."""
    job = bench()
    (fc7, _), (conv, _) = job.route("fc7"), job.route("conv")
    fc7.push(ONE)
    conv.push(ONE)
    begun_s = time.monotonic()
    job.session.done(conv, 0, ONE)
    assert job.session.waited_s == 0.0
    job.session.done(fc7, 0, ONE)
    assert 0.0 < job.session.waited_s < time.monotonic() - begun_s + 1.0
    waited_s = job.session.waited_s
    job.session.done(fc7, 0, ONE)
    assert job.session.waited_s == waited_s


def test_statistics_of_streams_are_their_sums() -> None:
    """Bytes and messages of several streams add up, each way; those with a lane are counted."""
    streams = [Traffic(), Traffic()]
    streams[1].has_lane = True
    streams[0].count_sent(10)
    streams[1].count_sent(5)
    streams[1].count_received(7)
    total = PeerStatistics.of(iter(streams))
    assert total == PeerStatistics(
        sent_bytes=15,
        sent_messages=2,
        received_bytes=7,
        received_messages=1,
        num_streams=2,
        num_lanes=1,
    )


def test_a_step_begins_with_the_first_replica_and_is_sent_with_the_last(
    bench: MakeBench,
) -> None:
    """The wait for a replica that never contributes ends like any other."""
    job = bench(step_s=0.05, describe_missing=lambda: "replica 1")
    route, delivered = job.route("fc7", num_replicas=2)
    assert route.push(ONE, 0) == 0
    assert route.missing_replicas() == {0: [1]}
    step, _, error = delivered.next()
    assert step == 0 and "replica 1" in error
    assert isinstance(job.session.failure, StepTimeout)
    route.push(ONE, 1)
    assert route.syncer.sent == []


def test_two_replicas_send_once(bench: MakeBench) -> None:
    """What is sent is joined, and its result is delivered once, for both."""
    job = bench()
    route, delivered = job.route("fc7", num_replicas=2)
    route.push([np.zeros(1)], 1)
    route.push(ONE, 0)
    assert [(step, arrays[0].tolist()) for step, arrays in route.syncer.sent] == [(0, [1.0, 0.0])]
    job.session.done(route, 0, ONE)
    assert delivered.next() == (0, ONE, "") and delivered.none()
