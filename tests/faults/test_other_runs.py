"""Messages for a process of another run of the job that has the same address are refused."""

import functools
import queue
from concurrent.futures import ThreadPoolExecutor

import pytest

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.codec import (
    ATTEND,
    decode_coordinator_message,
    encode_member_message,
)
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import (
    Announce,
    Failure,
    Gather,
    Goodbye,
    MemberFailure,
    MemberKey,
    MemberMessage,
    StopOffer,
)
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.errors import MemberError, PeerLost, PoseidonError, ProtocolError
from poseidon_tf.kv.client import ServerLink
from poseidon_tf.kv.service import EXCHANGE, INSPECT, REGISTER, KVService
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.sfb.service import BROADCAST, FactorService
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server
from poseidon_tf.wire.frame_pb2 import InspectReply, InspectRequest, KeyTable
from tests.faults.faults_streams import WAIT_S, Endpoint, Heard
from tests.support.proxies import Proxy

pytestmark = pytest.mark.connections

SPEC = KeySpec("w", "float32", 4)
OLD = ["", "server 1 of the run before"]  # One that says nothing, and one that means another.


class Store(Endpoint):
    """Server 1, as started in this run."""

    def __init__(self) -> None:
        super().__init__(max_streams=KVService.streams_needed(2))
        KVService(self.server, num_workers=2, index=1, identity="new")

    def link(self, identity: str) -> tuple[ServerLink, Heard]:
        lost = Heard()
        link = ServerLink(
            self.server.address,
            rank=0,
            identity=identity,
            on_sum=lambda key, step, view: None,
            on_lost=lost.on_closed,
        )
        return link, lost

    def num_keys(self) -> int:
        request = InspectRequest(to="new").SerializeToString()
        reply = self.channel().call(INSPECT, request, timeout_s=WAIT_S)
        return len(InspectReply.FromString(reply).keys)


@pytest.mark.parametrize("meant", OLD)
def test_a_server_refuses_who_means_another_server(meant: str) -> None:
    """A stream, a key table and a question alike; nothing changes, and the right one is served."""
    with Store() as store:
        says = "this is server 1 of another run of the job"
        error = store.refused(EXCHANGE, to=meant, rank=0, stream=0)
        assert isinstance(error, ProtocolError) and says in str(error)
        table = KeyTable(rank=0, to=meant).SerializeToString()
        question = InspectRequest(to=meant).SerializeToString()
        for method, request in ((REGISTER, table), (INSPECT, question)):
            with pytest.raises(ProtocolError, match=says):
                store.channel().call(method, request, timeout_s=WAIT_S)
        assert store.num_keys() == 0
        link, _ = store.link("new")
        assert link.register([SPEC], timeout_s=WAIT_S) == [0]
        assert store.num_keys() == 1
        link.leave(0)
        link.close(timeout_s=WAIT_S)


def test_a_worker_of_an_older_run_is_refused_by_a_new_server() -> None:
    """Its link hears of it as a refusal, which fails at once, not as a broken connection."""
    with Store() as store:
        link, lost = store.link("old")
        error = lost.error()
        assert isinstance(error, ProtocolError)
        with pytest.raises(ProtocolError, match="another run of the job"):
            link.register([SPEC], timeout_s=WAIT_S)
        with pytest.raises(ProtocolError, match="another run of the job"):
            link.inspect(timeout_s=WAIT_S)
        link.close(timeout_s=WAIT_S)


def service(server: Server, *, rank: int, identity: str, heard: Heard) -> FactorService:
    return FactorService(
        server,
        num_workers=2,
        rank=rank,
        identity=identity,
        on_complete=lambda complete: None,
        on_lost=lambda peer, error: heard.on_closed(error),
    )


@pytest.mark.parametrize("meant", OLD)
def test_a_worker_refuses_who_means_another_worker(meant: str) -> None:
    """On the wire, and as a peer that was told of another process at that address."""
    with Endpoint(max_streams=FactorService.streams_needed(2)) as peer:
        service(peer.server, rank=1, identity="new", heard=Heard())
        error = peer.refused(BROADCAST, to=meant, rank=0)
        assert "this is worker rank 1 of another run of the job" in str(error)
        lost = Heard()
        own = Server("127.0.0.1:0", max_streams=1)
        mine = service(own, rank=0, identity="mine", heard=lost)
        addresses = {0: own.address, 1: peer.server.address}
        mine.connect(
            addresses,
            settings=ConnectionSettings(),
            timeout_s=10.0,
            identities_of={0: "mine", 1: meant},
        )
        assert isinstance(lost.error(), ProtocolError)
        mine.close(timeout_s=WAIT_S)
        own.stop()


class Coordinator(Endpoint):
    """That of one run of two workers; its clock stands still, so nobody is late."""

    def __init__(self, *, incarnation: int) -> None:
        super().__init__(max_streams=4)
        self._roster = Roster(
            num_workers=2,
            num_servers=0,
            data_seed=0,
            incarnation=incarnation,
            start_timeout_s=WAIT_S,
            started_s=0.0,
        )
        self.service = CoordinatorService(self.server, self._roster, clock=lambda: 0.0)
        self._clients: list[CoordinatorClient] = []

    def __exit__(self, *exception: object) -> None:
        for client in self._clients:
            client.close(timeout_s=0.1)
        self.service.close(timeout_s=0.0)
        super().__exit__(*exception)

    def joined(
        self, address: str
    ) -> tuple[list[CoordinatorClient], queue.Queue[PoseidonError], set[int]]:
        """Both workers, which reach it at `address`; what they lose it with; its run's number."""
        lost: queue.Queue[PoseidonError] = queue.Queue()
        clients = [
            CoordinatorClient(
                address,
                role="worker",
                rank=rank,
                own_address="here:1",
                info={},
                num_workers=2,
                num_servers=0,
                job_failure=JobFailure(),
            )
            for rank in (0, 1)
        ]

        def tell(job_failure: JobFailure) -> None:
            assert job_failure.cause is not None
            lost.put(job_failure.cause)

        for client in clients:
            client.job_failure.on_set.append(functools.partial(tell, client.job_failure))
        self._clients += clients
        with ThreadPoolExecutor(2) as pool:
            views = list(pool.map(lambda each: each.join(timeout_s=WAIT_S), clients))
        return clients, lost, {view.incarnation for view in views}

    def is_untouched(self) -> bool:
        """Nobody has joined, and nothing has failed."""
        members = [MemberKey("worker", rank) for rank in (0, 1)]
        return self.service.failure is None and not any(map(self._roster.is_present, members))


def test_a_member_of_an_older_run_is_none_of_the_next_coordinator() -> None:
    """Its stream is not taken up by the process that has the old one's address now: it is lost,
    what it says is heard by nobody, and the next run begins with its own members."""
    with Coordinator(incarnation=1) as old, Coordinator(incarnation=2) as new:
        with Proxy(old.server.address) as proxy:
            clients, lost, numbers = old.joined(proxy.address)
            assert numbers == {1}
            proxy.target = new.server.address
            proxy.reset()
            for client in clients:
                assert isinstance(lost.get(timeout=WAIT_S), PeerLost)
                with pytest.raises(PeerLost, match="the stream has ended there"):
                    client.gather("plan", b"", timeout_s=WAIT_S)
                client.job_failure.give_up(MemberError("it is of the run before"))
                assert not client.goodbye(3)
        assert new.is_untouched()
        _, lost, numbers = new.joined(new.server.address)
        assert numbers == {2} and lost.empty()


@pytest.mark.parametrize(
    "message",
    [
        Gather(name="plan", payload=b"", timeout_s=1.0),
        StopOffer(number=1, after=3, timeout_s=1.0),
        Announce("topic", b""),
        MemberFailure("the disk is full"),
        Goodbye(3, False),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_coordinator_refuses_what_a_member_of_another_run_would_say(
    message: MemberMessage,
) -> None:
    """On a new stream only a `Join` makes a member; nothing else changes anything."""
    with Coordinator(incarnation=2) as new:
        stream, heard = new.open(ATTEND)
        stream.send(encode_member_message(message))
        refusal = decode_coordinator_message(heard.messages.get(timeout=WAIT_S))
        assert isinstance(refusal, Failure) and isinstance(refusal.error, ProtocolError)
        assert "has not joined" in str(refusal.error)
        assert new.is_untouched()
        _, lost, numbers = new.joined(new.server.address)
        assert numbers == {2} and lost.empty()
