"""Over real connections: how members find the coordinator, join, and learn who else is there."""

import contextlib
import logging
import queue
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.limits import MAX_STRANGER_PINGS
from poseidon_tf.coordinator.messages import MemberKey, Ping, Pong, Role
from poseidon_tf.errors import ConfigError, MemberError, StartTimeout
from poseidon_tf.transport.server import Server
from tests.coordinator.coordinator_jobs import MEMBERS, WAIT_S, Job, RawMember

pytestmark = [pytest.mark.connections, pytest.mark.usefixtures("no_thread_outlives_its_test")]


@pytest.mark.parametrize("order", [MEMBERS, MEMBERS[::-1], [MEMBERS[1], MEMBERS[2], MEMBERS[0]]])
def test_members_join_in_any_order_and_see_the_same_roster(
    job: Job, order: list[tuple[Role, int]]
) -> None:
    views = [view for _, view in [job.joining(role, rank) for role, rank in order]]
    first, *others = [view.result(WAIT_S) for view in views]
    assert first.worker_addresses == ["worker-0:1", "worker-1:1"]
    assert first.server_addresses == ["server-0:1"]
    assert first.servers[0].info == {"cpu": "server 0"}
    assert (first.data_seed, first.incarnation) == (5, 6)
    assert others == [first, first]


def test_a_missing_member_is_named_in_the_log_and_at_the_deadline(job: Job) -> None:
    class Listener(logging.Handler):
        lines: queue.Queue[str] = queue.Queue()

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.put(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("poseidon_tf").addHandler(listener)
    try:
        arrivals = [job.joining("worker", 0), job.joining("server", 0)]
        job.clock.now_s += 20.0
        notice = listener.lines.get(timeout=WAIT_S)
    finally:
        logging.getLogger("poseidon_tf").removeHandler(listener)
    assert "worker rank 1 (10.0.0.2:2222)" in notice
    assert "20 s of 120 s" in notice
    job.clock.now_s += 100.0
    for _, view in arrivals:
        with pytest.raises(StartTimeout, match=r"worker rank 1 \(10\.0\.0\.2:2222\)"):
            view.result(WAIT_S)
    assert isinstance(job.service.failure, StartTimeout)
    # Whoever comes too late waits for the next run, which does not come here.
    with pytest.raises(StartTimeout, match=r"no new run of the job in 0\.5 s: .*has failed"):
        job.client("worker", 1).join(timeout_s=0.5)


def test_a_newcomer_that_does_not_fit_is_refused_alone(job: Job) -> None:
    earlier = [job.joining("worker", 0), job.joining("server", 0)]
    intruder = job.client("worker", 1, own_address="intruder:1", num_servers=4)
    with pytest.raises(ConfigError, match=r"worker rank 1 \(intruder:1\) was told of 4 servers"):
        intruder.join(timeout_s=WAIT_S)
    for _, view in [*earlier, job.joining("worker", 1)]:
        view.result(WAIT_S)
    late = job.client("worker", 1, own_address="intruder:1")
    with pytest.raises(StartTimeout, match=r"intruder:1.*has that rank already, at worker-1:1"):
        late.join(timeout_s=0.5)
    assert job.service.failure is None


def test_the_same_rank_twice_before_everyone_is_there_is_refused_at_once(
    job: Job, raw: RawMember
) -> None:
    """Both are alive: two processes were given one task, and waiting would mend nothing."""
    raw.join("worker", 1)
    arrivals = [job.joining("worker", 0)]
    second = job.client("worker", 1, own_address="intruder:1")
    with pytest.raises(ConfigError, match=r"intruder:1.*that rank is taken by raw:1"):
        second.join(timeout_s=WAIT_S)
    for _, view in [*arrivals, job.joining("server", 0)]:
        view.result(WAIT_S)


def test_who_is_lost_before_everyone_is_there_is_replaced(job: Job, raw: RawMember) -> None:
    """The others go on waiting, and start with the replacement."""
    raw.join("worker", 1)
    arrivals = [job.joining("worker", 0)]
    raw.say(Ping(0.0))
    raw.next_heard()  # It has joined.
    raw.close()
    while job.roster.is_present(MemberKey("worker", 1)):
        time.sleep(0.01)
    arrivals += [job.joining("server", 0), job.joining("worker", 1)]
    for _, view in arrivals:
        assert view.result(WAIT_S).worker_addresses == ["worker-0:1", "worker-1:1"]
    assert job.service.failure is None


def test_a_newcomer_is_let_in_by_the_run_after_the_one_that_it_found() -> None:
    """It reaches the coordinator of a run that has failed, waits, and joins its successor."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(Job()))
        old.joined()
        old.gives_up(old.clients[2], "out of memory")
        for rank in (0, 1):
            assert isinstance(old.next_heard("worker", rank), MemberError)
        newcomer = old.client("worker", 1, own_address="newcomer:1", notice_period_s=0.05)
        view = old.pool.submit(newcomer.join, timeout_s=WAIT_S)
        while not newcomer._presence.not_now:
            time.sleep(0.01)
        assert "out of memory" in newcomer._presence.not_now
        for client in old.clients[:3]:
            client.close()
        assert old.service.close(timeout_s=WAIT_S)
        old.server.stop(grace_s=0.0)
        new = stack.enter_context(contextlib.closing(Job(address=old.address)))
        for _, joined in [new.joining("worker", 0), new.joining("server", 0)]:
            assert joined.result(WAIT_S).worker_addresses == ["worker-0:1", "newcomer:1"]
        assert view.result(WAIT_S).worker_addresses == ["worker-0:1", "newcomer:1"]


def test_who_waits_for_the_others_outlives_a_coordinator_that_does_not() -> None:
    """Rank 0 is lost before everyone has arrived: who was there joins the next one."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(Job()))
        early, view = old.joining("worker", 1)
        while not early._presence.num_pongs:
            time.sleep(0.01)
        old.server.stop(grace_s=0.0)
        new = stack.enter_context(contextlib.closing(Job(address=old.address)))
        for _, joined in [new.joining("worker", 0), new.joining("server", 0)]:
            joined.result(WAIT_S)
        assert view.result(WAIT_S).worker_addresses == ["worker-0:1", "worker-1:1"]


def test_a_wait_for_the_others_can_be_given_up(job: Job) -> None:
    """Its `join` raises what it is given, and the others go on waiting."""
    server, view = job.joining("server", 0)
    while not server._presence.num_pongs:
        time.sleep(0.01)
    server.job_failure.settle(MemberError("its parent is gone"))
    with pytest.raises(MemberError, match="its parent is gone"):
        view.result(WAIT_S)
    server.close()
    while job.roster.is_present(MemberKey("server", 0)):
        time.sleep(0.01)
    job.joined()
    assert job.service.failure is None


def test_a_wait_for_a_coordinator_that_is_not_there_can_be_given_up() -> None:
    """At once, not when it is looked for the next time."""
    with socket.socket() as bound, ThreadPoolExecutor(1) as pool:
        bound.bind(("127.0.0.1", 0))  # Nobody else can listen there meanwhile.
        client = client_of(f"127.0.0.1:{bound.getsockname()[1]}")
        with contextlib.closing(client):
            view = pool.submit(client.join, timeout_s=10 * WAIT_S)
            with pytest.raises(TimeoutError):  # The looks take longer by now.
                view.result(4.0)
            given_up_s = time.monotonic()
            client.job_failure.fail(ConfigError("its server has no port"))
            with pytest.raises(ConfigError, match="its server has no port"):
                view.result(WAIT_S)
            assert time.monotonic() - given_up_s < 1.0


def test_whoever_gives_up_may_end_the_wait_of_all(job: Job) -> None:
    """All who are here raise the same, of the same kind; who comes later is of the next run."""
    arrivals = [job.joining("worker", 0), job.joining("worker", 1)]
    while not all(client._presence.num_pongs for client, _ in arrivals):
        time.sleep(0.01)
    client, _ = arrivals[1]
    assert not client.job_failure.over.is_set()
    client.job_failure.fail(ConfigError("its server has no port"))
    assert client.job_failure.over.is_set()
    for _, view in arrivals:
        with pytest.raises(ConfigError, match="^its server has no port$"):
            view.result(WAIT_S)
    with pytest.raises(StartTimeout, match="has failed .its server has no port"):
        job.client("server", 0).join(timeout_s=0.5)


@pytest.mark.parametrize("shift_s", [5.0, -5.0, 0.0])
def test_a_clock_that_is_wrong_still_aligns(job: Job, shift_s: float) -> None:
    clients = [
        job.client(role, rank, clock=lambda: time.time() + shift_s) for role, rank in MEMBERS
    ]
    for view in [job.pool.submit(client.join, timeout_s=WAIT_S) for client in clients]:
        view.result(WAIT_S)
    for client in clients:
        assert 0.0 < client.clock_round_trip_s < 1.0
        tolerance_s = client.clock_round_trip_s / 2 + 0.001
        assert client.clock_offset_s == pytest.approx(-shift_s, abs=tolerance_s)


def test_the_offset_is_that_of_the_fastest_round_trip(job: Job) -> None:
    arrived_s = iter([100.5, 101.25, 102.5])
    client = job.client("worker", 0, clock=lambda: next(arrived_s))
    for sent_s in (100.0, 101.0, 102.0):  # The second is the fastest.
        pong = Pong(t_echo=sent_s, coordinator_time_ns=int((sent_s + 7) * 1e9))
        client.on_message(codec.encode_coordinator_message(pong))
    assert client.clock_round_trip_s == 0.25
    assert client.clock_offset_s == pytest.approx(7 - 0.125)


def client_of(address: str, **changes: Any) -> CoordinatorClient:
    """Of a job that may not be there."""
    return CoordinatorClient(
        address,
        role="worker",
        rank=1,
        own_address="me:1",
        info={},
        num_workers=2,
        num_servers=0,
        job_failure=JobFailure(),
        **changes,
    )


def test_an_unreachable_coordinator_is_named_while_trying_and_at_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vacated = Server("127.0.0.1:0", max_streams=1)
    vacated.start()  # One that never did keeps its port, and says nothing there.
    vacated.stop()
    client = client_of(vacated.address, notice_period_s=0.1)
    name = f"the coordinator (worker rank 0 at {vacated.address}) cannot be reached"
    with contextlib.closing(client):
        with pytest.raises(StartTimeout) as timeout:
            client.join(timeout_s=0.5)
    text = str(timeout.value)
    assert text.startswith(f"{name} (") and text.endswith(") in 0.5 s")  # Between: gRPC's reason.
    assert 3 <= len([record for record in caplog.records if name in record.message]) <= 5


def test_a_server_that_is_no_coordinator_is_asked_again_until_the_deadline() -> None:
    with contextlib.ExitStack() as stack:
        other = Server("127.0.0.1:0", max_streams=1)
        other.start()
        stack.callback(other.stop)
        client = client_of(other.address)
        stack.callback(client.close)
        with pytest.raises(StartTimeout, match="cannot be reached.*Method not found"):
            client.join(timeout_s=0.5)


def test_a_stranger_that_asks_for_the_time_without_end_is_sent_away(job: Job) -> None:
    """Each answer waits in memory for it to be read; members may ask as often as they like."""
    stranger = RawMember(job.address)
    for _ in range(MAX_STRANGER_PINGS + 1):
        stranger.say(Ping(1.0))
    heard = [stranger.next_heard() for _ in range(MAX_STRANGER_PINGS + 1)]
    assert all(isinstance(each, Pong) for each in heard[:-1])
    assert "pings 65 times and has not joined" in heard[-1].text
    assert stranger.next_heard() is None
    stranger.channel.close()
    member = RawMember(job.address)
    member.join("worker", 0)
    for _ in range(2 * MAX_STRANGER_PINGS):
        member.say(Ping(1.0))
        assert isinstance(member.next_heard(), Pong)
    member.channel.close()
