"""A coordinator, its clients over real connections, and a member that says what a test wants."""

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import Join, MemberMessage, Role, RosterView
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.errors import MemberError
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server

MEMBERS: list[tuple[Role, int]] = [("worker", 0), ("worker", 1), ("server", 0)]  # Everyone.
WAIT_S = 20.0  # Far more than anything here takes.


class ManualClock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Job:
    """A coordinator for 2 workers and 1 server, and whoever a test lets join."""

    def __init__(self, address: str = "127.0.0.1:0", **service_options: Any) -> None:
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
        self.heard: dict[
            tuple[Role, int], queue.Queue[Any]
        ] = {}  # What each member's callbacks were called with.
        self.clients: list[CoordinatorClient] = []

    def client(self, role: Role, rank: int, **changes: Any) -> CoordinatorClient:
        heard = self.heard[role, rank] = queue.Queue()
        description: dict[str, Any] = dict(
            role=role,
            rank=rank,
            own_address=f"{role}-{rank}:1",
            info={"cpu": f"{role} {rank}"},
            num_workers=2,
            num_servers=1,
            job_failure=JobFailure(verdict_s=WAIT_S),
            on_left=lambda rank, last_step: heard.put(("left", rank, last_step)),
            on_ended=lambda: heard.put("ended"),
            on_announced=lambda *announced: heard.put(announced),
        )
        client = CoordinatorClient(self.address, **(description | changes))
        job_failure = client.job_failure
        job_failure.on_set.append(lambda: heard.put(job_failure.cause))
        self.clients.append(client)
        return client

    def gives_up(self, client: CoordinatorClient, why: str) -> None:
        """It leaves because of its own failure."""
        client.job_failure.give_up(MemberError(why))
        client.close()

    def joining(self, role: Role, rank: int) -> tuple[CoordinatorClient, Future[RosterView]]:
        client = self.client(role, rank)
        return client, self.pool.submit(client.join, timeout_s=WAIT_S)

    def joined(self, members: Sequence[tuple[Role, int]] = MEMBERS) -> list[CoordinatorClient]:
        """Everyone, complete."""
        arrivals = [self.joining(role, rank) for role, rank in members]
        for _, view in arrivals:
            view.result(WAIT_S)
        return [client for client, _ in arrivals]

    def next_heard(self, role: Role, rank: int) -> Any:
        return self.heard[role, rank].get(timeout=WAIT_S)

    def close(self) -> None:
        for client in self.clients:
            client.close()
            client.job_failure.leave()  # Else its timer goes on for as long as a verdict takes.
        self.service.close(timeout_s=WAIT_S)
        self.server.stop()
        self.pool.shutdown()


class RawMember:
    """A member that says what a test wants it to say."""

    def __init__(self, address: str) -> None:
        self.heard: queue.Queue[Any] = queue.Queue()
        self.channel = Channel(address)
        self.stream = self.channel.open_stream(codec.ATTEND, self)

    def on_message(self, message: bytes) -> None:
        self.heard.put(codec.decode_coordinator_message(message))

    def on_closed(self, error: Exception | None) -> None:
        self.heard.put(error)

    def say(self, message: MemberMessage) -> None:
        self.stream.send(codec.encode_member_message(message))

    def join(self, role: Role, rank: int, num_workers: int = 2, num_servers: int = 1) -> None:
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

    def next_heard(self) -> Any:
        return self.heard.get(timeout=WAIT_S)

    def close(self) -> None:
        self.stream.abort("test over")
        self.stream.wait_ended(timeout_s=WAIT_S)
        self.channel.close()
