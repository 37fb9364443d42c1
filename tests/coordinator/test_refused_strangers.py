"""A stranger whom the coordinator has refused."""

from collections.abc import Callable
from typing import Any

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.messages import Failure, Gather, Join, MemberKey, Ping
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.transport.base import MessageQueue


def test_a_stranger_that_was_refused_is_not_heard_again() -> None:
    """It could not hear what would follow: the rank that it asks for stays free."""

    class Server:
        def add_stream(self, method: str, accept: Callable[..., Any]) -> None:
            self.accept = accept

        def add_unary(self, method: str, answer: Callable[[bytes], bytes]) -> None:
            pass  # Nobody asks here.

    class Stream:
        peer = "stranger"

        def __init__(self) -> None:
            self.outgoing: Any = MessageQueue()
            self.send, self.close = self.outgoing.put, self.outgoing.close

        def abort(self, reason: str) -> None:
            self.close()

    roster = Roster(
        num_workers=1,
        num_servers=0,
        data_seed=5,
        incarnation=6,
        start_timeout_s=120.0,
        started_s=0.0,
    )
    server: Any = Server()
    service = CoordinatorService(server, roster, clock=lambda: 0.0)
    try:
        stranger, member = Stream(), Stream()
        say = server.accept(stranger).on_message
        join = Join(role="worker", rank=0, address="a:1", info={}, num_workers=1, num_servers=0)
        say(b"garbage")
        for message in (join, Ping(1.0), Gather(name="x", payload=b"", timeout_s=1.0)):
            say(codec.encode_member_message(message))
        assert not roster.is_present(MemberKey("worker", 0))
        assert [type(codec.decode_coordinator_message(each)) for each in stranger.outgoing] == [
            Failure
        ]
        server.accept(member).on_message(codec.encode_member_message(join))
        assert roster.is_present(MemberKey("worker", 0))
    finally:
        service.close(timeout_s=0.0)
