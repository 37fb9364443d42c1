"""Service and clients over real connections: how a job starts, goes on and ends for everyone."""

import contextlib
import logging
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.limits import MAX_STRANGER_PINGS
from poseidon_tf.coordinator.messages import Failure, Gather, Join, MemberKey, Ping, Pong
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import (
    ConfigError,
    DriftError,
    MemberError,
    PeerLost,
    ProtocolError,
    StartTimeout,
    StepTimeout,
)
from poseidon_tf.transport.over_grpc import Channel, Server

WAIT_S = 20.0  # Far more than anything here takes.


class ManualClock:
    """Goes on only when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Job:
    """A coordinator for 2 workers and 1 server, and whoever a test lets join."""

    def __init__(self, address="127.0.0.1:0", **service_options):
        self.clock = ManualClock()
        self.server = Server(address, max_streams=6, patience_s=WAIT_S)
        self.address = self.server.address
        self.roster = Roster(
            num_workers=2,
            num_servers=1,
            worker_addresses=["10.0.0.1:2222", "10.0.0.2:2222"],
            server_addresses=["10.0.0.9:2222"],
            data_seed=5,
            incarnation=6,
            start_timeout_s=120.0,
            started_s=self.clock(),
        )
        self.service = CoordinatorService(
            self.server, self.roster, clock=self.clock, tick_s=0.01, **service_options
        )
        self.server.start()
        self.pool = ThreadPoolExecutor(8)
        self.heard = {}  # What each member's callbacks were called with.
        self.clients = []

    def client(self, role, rank, **changes):
        heard = self.heard[role, rank] = queue.Queue()
        description = dict(
            role=role,
            rank=rank,
            own_address=f"{role}-{rank}:1",
            info={"cpu": f"{role} {rank}"},
            num_workers=2,
            num_servers=1,
            on_failure=heard.put,
            on_left=lambda rank, last_step: heard.put(("left", rank, last_step)),
            on_ended=lambda: heard.put("ended"),
            on_announced=lambda *announced: heard.put(announced),
        )
        client = CoordinatorClient(self.address, **(description | changes))
        self.clients.append(client)
        return client

    def joining(self, role, rank):
        client = self.client(role, rank)
        return client, self.pool.submit(client.join, timeout_s=WAIT_S)

    def joined(self, members=(("worker", 0), ("worker", 1), ("server", 0))):
        """Everyone, complete."""
        arrivals = [self.joining(role, rank) for role, rank in members]
        for _, view in arrivals:
            view.result(WAIT_S)
        return [client for client, _ in arrivals]

    def next_heard(self, role, rank):
        return self.heard[role, rank].get(timeout=WAIT_S)

    def close(self):
        for client in self.clients:
            client.close()
        self.service.close(timeout_s=WAIT_S)
        self.server.stop()
        self.pool.shutdown()


class RawMember:
    """A member that says what a test wants it to say."""

    def __init__(self, address):
        self.heard = queue.Queue()
        self.channel = Channel(address)
        self.stream = self.channel.open_stream(codec.ATTEND, self)

    def on_message(self, message):
        self.heard.put(codec.decode_coordinator_message(message))

    def on_closed(self, error):
        self.heard.put(error)

    def say(self, message):
        self.stream.send(codec.encode_member_message(message))

    def join(self, role, rank, num_workers=2, num_servers=1):
        self.say(
            Join(
                role=role,
                rank=rank,
                address="raw:1",
                info={},
                num_workers=num_workers,
                num_servers=num_servers,
            )
        )

    def next_heard(self):
        return self.heard.get(timeout=WAIT_S)

    def close(self):
        self.stream.abort("test over")
        self.stream.wait_ended(timeout_s=WAIT_S)
        self.channel.close()


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test():
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + WAIT_S
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:  # gRPC's own threads end a moment after the server.
        thread.join(max(deadline_s - time.monotonic(), 0.0))
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture
def job():
    with contextlib.closing(Job()) as job:
        yield job


@pytest.fixture
def raw(job):
    with contextlib.closing(RawMember(job.address)) as member:
        yield member


MEMBERS = [("worker", 0), ("worker", 1), ("server", 0)]


@pytest.mark.parametrize("order", [MEMBERS, MEMBERS[::-1], [MEMBERS[1], MEMBERS[2], MEMBERS[0]]])
def test_members_join_in_any_order_and_see_the_same_roster(job, order):
    views = [view for _, view in [job.joining(role, rank) for role, rank in order]]
    first, *others = [view.result(WAIT_S) for view in views]
    assert first.worker_addresses == ["worker-0:1", "worker-1:1"]
    assert first.server_addresses == ["server-0:1"]
    assert first.servers[0].info == {"cpu": "server 0"}
    assert (first.data_seed, first.incarnation) == (5, 6)
    assert others == [first, first]


def test_gathers_of_many_names_at_once_come_back_in_rank_order(job):
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


def test_announcements_reach_the_other_workers_in_order(job):
    worker, *_ = job.joined()
    for payload in (b"1", b"2"):
        worker.announce("data", payload)
    assert job.next_heard("worker", 1) == (0, "data", b"1")
    assert job.next_heard("worker", 1) == (0, "data", b"2")
    assert job.heard["worker", 0].empty() and job.heard["server", 0].empty()


def test_a_missing_member_is_named_in_the_log_and_at_the_deadline(job):
    class Listener(logging.Handler):
        lines = queue.Queue()

        def emit(self, record):
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


def test_a_newcomer_that_does_not_fit_is_refused_alone(job):
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


def test_the_same_rank_twice_before_everyone_is_there_is_refused_at_once(job, raw):
    """Both are alive: two processes were given one task, and waiting would mend nothing."""
    raw.join("worker", 1)
    arrivals = [job.joining("worker", 0)]
    second = job.client("worker", 1, own_address="intruder:1")
    with pytest.raises(ConfigError, match=r"intruder:1.*that rank is taken by raw:1"):
        second.join(timeout_s=WAIT_S)
    for _, view in [*arrivals, job.joining("server", 0)]:
        view.result(WAIT_S)


def test_who_is_lost_before_everyone_is_there_is_replaced(job, raw):
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


def test_a_newcomer_is_let_in_by_the_run_after_the_one_that_it_found():
    """It reaches the coordinator of a run that has failed, waits, and joins its successor."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(Job()))
        old.joined()
        old.clients[2].report_failure("out of memory")
        for rank in (0, 1):
            assert isinstance(old.next_heard("worker", rank), MemberError)
        newcomer = old.client("worker", 1, own_address="newcomer:1", notice_period_s=0.05)
        view = old.pool.submit(newcomer.join, timeout_s=WAIT_S)
        while not newcomer._hearing.not_now:
            time.sleep(0.01)
        assert "out of memory" in newcomer._hearing.not_now
        for client in old.clients[:3]:
            client.close()
        assert old.service.close(timeout_s=WAIT_S)
        old.server.stop(grace_s=0.0)
        new = stack.enter_context(contextlib.closing(Job(address=old.address)))
        for _, joined in [new.joining("worker", 0), new.joining("server", 0)]:
            assert joined.result(WAIT_S).worker_addresses == ["worker-0:1", "newcomer:1"]
        assert view.result(WAIT_S).worker_addresses == ["worker-0:1", "newcomer:1"]


def test_who_waits_for_the_others_outlives_a_coordinator_that_does_not():
    """Rank 0 is lost before everyone has arrived: who was there joins the next one."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(Job()))
        early, view = old.joining("worker", 1)
        while not early._hearing.num_pongs:
            time.sleep(0.01)
        old.server.stop(grace_s=0.0)
        new = stack.enter_context(contextlib.closing(Job(address=old.address)))
        for _, joined in [new.joining("worker", 0), new.joining("server", 0)]:
            joined.result(WAIT_S)
        assert view.result(WAIT_S).worker_addresses == ["worker-0:1", "worker-1:1"]


def test_a_wait_for_the_others_can_be_given_up(job):
    """Its `join` raises what it is given; after everyone has arrived there is none to end."""
    server, view = job.joining("server", 0)
    while not server._hearing.num_pongs:
        time.sleep(0.01)
    assert server.give_up(MemberError("its parent is gone"))
    with pytest.raises(MemberError, match="its parent is gone"):
        view.result(WAIT_S)
    server.close()
    while job.roster.is_present(MemberKey("server", 0)):
        time.sleep(0.01)
    worker, *_ = job.joined()
    assert not worker.give_up(MemberError("too late"))


@pytest.mark.parametrize("farewell", ["abort", "close"])
def test_a_member_that_vanishes_fails_the_job_everywhere(job, raw, farewell):
    raw.join("worker", 1)
    worker, _ = job.joined(members=[("worker", 0), ("server", 0)])
    waiting = job.pool.submit(worker.gather, "plan", b"", timeout_s=WAIT_S)
    {"abort": lambda: raw.stream.abort("killed"), "close": raw.stream.close}[farewell]()
    text = r"worker rank 1 \(raw:1\) closed its connection without a goodbye"
    with pytest.raises(PeerLost, match=text):
        waiting.result(WAIT_S)
    for member in [("worker", 0), ("server", 0)]:
        assert isinstance(job.next_heard(*member), PeerLost)
    with pytest.raises(PeerLost, match=text):
        worker.gather("later", b"", timeout_s=WAIT_S)


def test_a_vanished_coordinator_fails_every_member(job):
    worker, *_ = job.joined()
    waiting = job.pool.submit(worker.gather, "plan", b"", timeout_s=WAIT_S)
    job.server.stop(grace_s=0.0)
    text = rf"the coordinator \(worker rank 0 at {job.address}\) closed the connection"
    with pytest.raises(PeerLost, match=text):
        waiting.result(WAIT_S)
    for member in MEMBERS:
        assert isinstance(job.next_heard(*member), PeerLost)


def test_a_reported_failure_reaches_the_others_once_and_not_the_reporter(job):
    zero, one, _ = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    one.report_failure("disk full")
    text = r"worker rank 1 \(worker-1:1\) failed: disk full"
    with pytest.raises(MemberError, match=text):
        waiting.result(WAIT_S)
    assert str(job.next_heard("server", 0)) == "worker rank 1 (worker-1:1) failed: disk full"
    assert str(job.next_heard("worker", 0)) == "worker rank 1 (worker-1:1) failed: disk full"
    assert job.service.close(timeout_s=WAIT_S)  # After a failure nobody has to say goodbye.
    assert all(heard.empty() for heard in job.heard.values())


def test_an_error_that_a_worker_reports_comes_back_to_all_alike(job):
    """One type and one text, whoever found it, in their waits too; of two the first counts."""
    zero, one, server = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    text = "server 0 (10.0.0.8:1): connection reset"
    assert one.report_error(PeerLost(text))
    whole = f"worker rank 1 (worker-1:1) reports: {text}"
    for member in (("worker", 0), ("worker", 1), ("server", 0)):
        heard = job.next_heard(*member)
        assert type(heard) is PeerLost and str(heard) == whole
    with pytest.raises(PeerLost, match="connection reset"):
        waiting.result(WAIT_S)
    assert zero.report_error(StepTimeout("too late"))  # The answer has come already.
    assert job.service.close(timeout_s=WAIT_S)
    assert all(heard.empty() for heard in job.heard.values())
    server.close()
    assert job.service.failure is not None and str(job.service.failure) == whole


def test_who_is_not_in_the_job_reports_to_nobody(job):
    """Neither before it has joined nor once it leaves: no answer would come."""
    assert not job.client("worker", 0).report_error(DriftError("why"))
    zero, *_ = job.joined()
    zero.close()
    assert not zero.report_error(DriftError("why"))


def test_a_wait_that_its_worker_gives_up_ends(job):
    """The coordinator has not said why; the worker's own error is raised."""
    zero, *_ = job.joined()
    waiting = job.pool.submit(zero.gather, "plan", b"", timeout_s=WAIT_S)
    assert not wait([waiting], timeout=0.1).done
    zero.end_waits(DriftError("why"))
    with pytest.raises(DriftError, match="why"):
        waiting.result(WAIT_S)


def test_goodbyes_are_heard_and_the_last_one_ends_the_servers(job):
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


def test_leaving_while_another_waits_fails_that_gather_at_once(job):
    zero, one, _ = job.joined()
    one.goodbye(41)
    with pytest.raises(MemberError, match=r"\(worker-1:1\) left after step 41 while rank 0 waits"):
        zero.gather("x", b"", timeout_s=WAIT_S)


def test_a_gather_that_one_worker_never_joins_ends_at_its_deadline(job):
    zero, *_ = job.joined()
    waiting = job.pool.submit(zero.gather, "x", b"", timeout_s=60.0)
    while not waiting.done():  # The clock goes on until the coordinator has had the part for 60 s.
        job.clock.now_s += 61.0
        wait([waiting], timeout=0.05)
    with pytest.raises(StepTimeout, match=r"gather 'x' waits for worker rank 1 \(worker-1:1\)"):
        waiting.result(WAIT_S)


def test_a_worker_that_wants_to_stop_waits_until_the_other_has_offered(job):
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


def test_a_failure_ends_the_wait_for_a_stop(job):
    """Whoever waits raises it."""
    first, second, _ = job.joined()
    second.advance(Stopping.begin)
    first.advance(Stopping.begin)
    second.advance(Stopping.end)
    wanting = job.pool.submit(second.advance, Stopping.want)
    assert not wait([wanting], timeout=0.1).done
    first.report_failure("out of memory")
    with pytest.raises(MemberError, match="out of memory"):
        wanting.result(WAIT_S)


def test_a_stop_that_one_worker_never_offers_ends_at_its_deadline(job):
    """The text names it."""
    first, second, _ = job.joined()
    for client in (first, second):
        client.advance(Stopping.begin)
    first.advance(Stopping.end)
    wanting = job.pool.submit(first.advance, Stopping.want)
    while not wanting.done():  # The clock goes on until the coordinator has had the offer for long.
        job.clock.now_s += 601.0
        wait([wanting], timeout=0.05)
    with pytest.raises(StepTimeout, match=r"a stop waits for worker rank 1 \(worker-1:1\)"):
        wanting.result(WAIT_S)


def test_closing_gives_up_on_members_that_stay(job):
    job.joined()
    assert not job.service.close(timeout_s=0.01)
    for member in MEMBERS:
        assert "the coordinator is closing" in str(job.next_heard(*member))


def test_garbage_is_refused_to_its_sender_only(job, raw):
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


@pytest.mark.parametrize("shift_s", [5.0, -5.0, 0.0])
def test_a_clock_that_is_wrong_still_aligns(job, shift_s):
    clients = [
        job.client(role, rank, clock=lambda: time.time() + shift_s) for role, rank in MEMBERS
    ]
    for view in [job.pool.submit(client.join, timeout_s=WAIT_S) for client in clients]:
        view.result(WAIT_S)
    for client in clients:
        assert 0.0 < client.clock_round_trip_s < 1.0
        tolerance_s = client.clock_round_trip_s / 2 + 0.001
        assert client.clock_offset_s == pytest.approx(-shift_s, abs=tolerance_s)


def test_the_loss_of_the_coordinator_names_it_whatever_the_reason(job):
    """Also where its stream ends because of what it said."""
    client = job.client("worker", 1)
    client._hearing.is_joined = True
    client._hearing.on_closed(ProtocolError("7 bytes that are no message"))
    heard = job.next_heard("worker", 1)
    assert type(heard) is ProtocolError
    name = f"the coordinator (worker rank 0 at {job.address})"
    assert str(heard) == f"{name}: 7 bytes that are no message"


def test_the_offset_is_that_of_the_fastest_round_trip(job):
    arrived_s = iter([100.5, 101.25, 102.5])
    client = job.client("worker", 0, clock=lambda: next(arrived_s))
    for sent_s in (100.0, 101.0, 102.0):  # The second is the fastest.
        pong = Pong(t_echo=sent_s, coordinator_time_ns=int((sent_s + 7) * 1e9))
        client._hearing.on_message(codec.encode_coordinator_message(pong))
    assert client.clock_round_trip_s == 0.25
    assert client.clock_offset_s == pytest.approx(7 - 0.125)


def test_an_unreachable_coordinator_is_named_while_trying_and_at_the_deadline(caplog):
    vacated = Server("127.0.0.1:0", max_streams=1)
    vacated.start()  # One that never did keeps its port, and says nothing there.
    vacated.stop()
    client = CoordinatorClient(
        vacated.address,
        role="worker",
        rank=1,
        own_address="me:1",
        info={},
        num_workers=2,
        num_servers=0,
        on_failure=lambda error: None,
        notice_period_s=0.1,
    )
    name = f"the coordinator (worker rank 0 at {vacated.address}) cannot be reached"
    with contextlib.closing(client):
        with pytest.raises(StartTimeout) as timeout:
            client.join(timeout_s=0.5)
    text = str(timeout.value)
    assert text.startswith(f"{name} (") and text.endswith(") in 0.5 s")  # Between: gRPC's reason.
    assert 3 <= len([record for record in caplog.records if name in record.message]) <= 5


def test_a_server_that_is_no_coordinator_is_asked_again_until_the_deadline():
    with contextlib.ExitStack() as stack:
        other = Server("127.0.0.1:0", max_streams=1)
        other.start()
        stack.callback(other.stop)
        client = CoordinatorClient(
            other.address,
            role="worker",
            rank=1,
            own_address="me:1",
            info={},
            num_workers=2,
            num_servers=0,
            on_failure=lambda error: None,
        )
        stack.callback(client.close)
        with pytest.raises(StartTimeout, match="cannot be reached.*Method not found"):
            client.join(timeout_s=0.5)


def test_a_stranger_that_asks_for_the_time_without_end_is_sent_away(job):
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
