"""Streams whose messages go over lanes: what arrives, from where into where, and what breaks."""

from __future__ import annotations

import contextlib
import fcntl
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from poseidon_tf.errors import ConfigError, PeerLost, ProtocolError
from poseidon_tf.transport.base import (
    GRPC_PREFIX_BYTES,
    LANE_PREFIX_BYTES,
    MAX_MESSAGE_BYTES,
    Room,
    Traffic,
)
from poseidon_tf.transport.carriers import OFFERED, WANTED, Accepted
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.lane_port import LanePort
from poseidon_tf.transport.lanes import UNSENT_BYTES, WELCOME, Lane
from poseidon_tf.transport.security import Security
from poseidon_tf.transport.streams import Broken, Stream
from poseidon_tf.wire.frames import Message, Segments
from tests.support.certificates import Authority
from tests.support.proxies import Proxy
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

TALK = "/test.Talk/Talk"
_SIOCOUTQNSD = 0x894B  # Linux: bytes that are in the queue of a socket and have not been sent.
Talk: TypeAlias = Callable[..., Stream]


class Host:
    """A server that says back what it hears."""

    def __init__(
        self, peers: Peers, *, answer: Callable[[Message], None] | None = None, **settings: Any
    ) -> None:
        self.inboxes: list[Inbox] = []
        self.streams: list[Stream] = []
        self.server = peers.server(settings=ConnectionSettings(**{"resume_s": WAIT_S, **settings}))
        self._answer = answer
        self.server.add_stream(TALK, self._accept, with_lanes=True)
        self.server.start()
        self.address = self.server.address

    @property
    def lanes(self) -> LanePort:
        assert self.server.lanes is not None
        return self.server.lanes

    def _accept(self, stream: Stream) -> Inbox:
        inbox = Inbox(self._answer or stream.send)
        self.streams.append(stream)
        self.inboxes.append(inbox)
        return inbox


@pytest.fixture
def talk(peers: Peers) -> Talk:
    """Opens a stream with a lane to an address."""

    def build(address: str, inbox: Inbox, *, room: Room | None = None, **settings: Any) -> Stream:
        more: dict[str, Any] = {} if room is None else {"room": room}
        channel = peers.channel(
            address, settings=ConnectionSettings(**{"resume_s": WAIT_S, **settings})
        )
        return channel.open_stream(TALK, inbox, with_lane=True, **more)

    return build


@contextlib.contextmanager
def lanes_through(host: Host, proxy: Proxy) -> Iterator[None]:
    """Within: whoever is offered a lane comes to `proxy` instead."""
    own_port = host.lanes.port
    host.lanes.port = int(proxy.address.rpartition(":")[2])
    try:
        yield
    finally:
        host.lanes.port = own_port


def wait_until(is_so: Callable[[], bool]) -> None:
    """Nothing tells of it."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def whole(message: Message) -> bytes:
    return message.joined() if isinstance(message, Segments) else bytes(message)


def some_messages(seed: int, count: int, largest: int = 200_000) -> Iterator[Message]:
    rng = random.Random(seed)
    for _ in range(count):
        sizes = [rng.choice([0, 1, 8, 100, 16 * 1024, largest]) for _ in range(rng.randint(1, 4))]
        head, *payloads = [rng.randbytes(size) for size in sizes]
        yield Segments(b"\x0a" + head, payloads) if payloads else head


def test_messages_of_all_forms_come_back_in_order(peers: Peers, talk: Talk) -> None:
    """In one place or in several, empty or long; both ends end in order."""
    host, inbox = Host(peers), Inbox()
    stream = talk(host.address, inbox)
    sent = list(some_messages(0, 200))
    for message in sent:
        stream.send(message)
    assert [whole(inbox.next()) for _ in sent] == [whole(message) for message in sent]
    stream.close()
    host.streams[0].close()
    assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
    assert host.inboxes[0].end() is None


def test_tensor_bytes_go_over_the_lane_and_are_counted(peers: Peers, talk: Talk) -> None:
    """The call carries one word; what either end counts is what the other one does."""
    host, inbox = Host(peers), Inbox()
    with Proxy(host.address) as proxy:
        stream = talk(proxy.address, inbox)
        stream.send(Segments(b"\x0ahead", [bytes(5_000_000)]))
        inbox.next()
        stream.close()
        host.streams[0].close()
        assert stream.wait_ended(timeout_s=WAIT_S)
        assert host.streams[0].wait_ended(timeout_s=WAIT_S)
        assert proxy.num_bytes < 20_000
    here, there = stream.traffic, host.streams[0].traffic
    assert (here.sent_bytes, here.sent_messages) == (there.received_bytes, there.received_messages)
    assert (there.sent_bytes, there.sent_messages) == (here.received_bytes, here.received_messages)
    word, ledgers_word = len(b"\x00lane") + GRPC_PREFIX_BYTES, 10 + LANE_PREFIX_BYTES
    message = len(b"\x0ahead") + 5_000_000 + LANE_PREFIX_BYTES
    end = len(b"\x00e") + LANE_PREFIX_BYTES
    num_words, rest = divmod(here.sent_bytes - word - message - end, ledgers_word)
    assert num_words >= 1 and rest == 0


def test_a_payload_is_read_where_it_belongs(peers: Peers, talk: Talk) -> None:
    """Asked with head and length before a byte of it is read; what has no room gets some."""
    host, inbox = Host(peers), Inbox()
    place = np.zeros(300_000, np.uint8)
    asked: list[tuple[bytes, int]] = []

    def room(head: bytes, num_bytes: int) -> memoryview | None:
        asked.append((head, num_bytes))
        return place.data if head == b"\x0ahere" else None

    stream = talk(host.address, inbox, room=room)
    stream.send(Segments(b"\x0ahere", [b"a" * 300_000]))
    stream.send(Segments(b"\x0aelsewhere", [b"b" * 7]))
    here: Any = inbox.next()
    elsewhere = inbox.next()
    assert here.payloads[0].obj is place and bytes(place) == b"a" * 300_000
    assert whole(elsewhere) == b"\x0aelsewhere" + b"b" * 7
    assert asked == [(b"\x0ahere", 300_000), (b"\x0aelsewhere", 7)]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_heard_twice_when_lanes_break(
    peers: Peers, talk: Talk, seed: int
) -> None:
    """Dozens of lanes, each reset somewhere, in the middle of messages too."""
    rng = random.Random(seed)
    host, inbox = Host(peers), Inbox()
    sent = list(some_messages(seed, 150, largest=40_000))
    limits = (rng.randrange(100_000, 400_000) for _ in iter(int, 1))
    with Proxy(f"127.0.0.1:{host.lanes.port}", limits) as proxy:
        with lanes_through(host, proxy):
            stream = talk(host.address, inbox)
            for message in sent:
                stream.send(message)
            assert [whole(inbox.next()) for _ in sent] == [whole(message) for message in sent]
            stream.close()
            host.streams[0].close()
            assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
        assert proxy.num_resets >= 5
    assert len(host.inboxes) == 1 and host.inboxes[0].messages.qsize() == len(sent)


def test_a_call_that_breaks_takes_its_lane_with_it(peers: Peers, talk: Talk) -> None:
    """Whether the other end is alive is asked through the call: both are made anew."""
    host, inbox = Host(peers), Inbox()
    with Proxy(host.address) as calls, Proxy(f"127.0.0.1:{host.lanes.port}") as lanes:
        with lanes_through(host, lanes):
            stream = talk(calls.address, inbox)
            for number in range(1, 6):
                stream.send(bytes([number]))
                assert inbox.next() == bytes([number])
                assert lanes.num_connections == number
                calls.reset()
                wait_until(lambda: lanes.num_connections > number)  # noqa: B023
            stream.close()
            host.streams[0].close()
            assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
        assert calls.num_connections == lanes.num_connections == 6


def test_a_refusal_is_heard_over_the_call(peers: Peers, talk: Talk) -> None:
    """Both ends end, with the reason of the one who refused."""

    def refuse(message: Message) -> None:
        raise ProtocolError("makes no sense")

    host, inbox = Host(peers, answer=refuse), Inbox()
    talk(host.address, inbox).send(b"a")
    error = inbox.end()
    assert isinstance(error, ProtocolError) and "makes no sense" in str(error)
    assert "makes no sense" in str(host.inboxes[0].end())


def test_who_cannot_come_to_the_lane_goes_through_the_call(
    peers: Peers, talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    """By default: the stream works, and the log says what it costs and why."""
    host, inbox = Host(peers), Inbox()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed_port = unused.getsockname()[1]
    host.lanes.port = closed_port
    stream = talk(host.address, inbox)
    stream.send(Segments(b"\x0ahead", [b"payload"]))
    assert whole(inbox.next()) == b"\x0aheadpayload"
    (record,) = [each for each in caplog.records if "lane" in each.message]
    assert host.address in record.message and "Connection refused" in record.message


def test_who_insists_on_a_lane_is_told_that_there_is_none(peers: Peers, talk: Talk) -> None:
    """By an error that names both ways out."""
    host, inbox = Host(peers, protocol="grpc"), Inbox()
    talk(host.address, inbox, protocol="grpc+tcp").send(b"a")
    error = inbox.end()
    assert isinstance(error, ConfigError)
    assert host.address in str(error) and "protocol" in str(error)


@pytest.mark.parametrize("here, there", [("grpc", "auto"), ("auto", "grpc"), ("grpc", "grpc+tcp")])
def test_one_end_without_lanes_is_enough_to_have_none(
    peers: Peers, talk: Talk, here: str, there: str
) -> None:
    """Everything goes through the call."""
    host, inbox = Host(peers, protocol=there), Inbox()
    stream = talk(host.address, inbox, protocol=here)
    stream.send(Segments(b"\x0ahead", [b"payload"]))
    assert inbox.next() == b"\x0aheadpayload"
    assert isinstance(host.inboxes[0].next(), bytes)


def test_a_job_with_tls_has_no_lane(peers: Peers, talk: Talk, tmp_path: Path) -> None:
    """Nothing of it leaves in the clear: lanes are neither asked for nor offered."""
    security = Authority(tmp_path).security()
    host, inbox = Host(peers, security=security), Inbox()
    stream = talk(host.address, inbox, security=security)
    stream.send(Segments(b"\x0ahead", [b"payload"]))
    assert inbox.next() == b"\x0aheadpayload"
    assert host.server.lanes is None and isinstance(host.inboxes[0].next(), bytes)


def test_without_the_token_no_lane_is_offered(peers: Peers) -> None:
    """The word of a lane is told only to members."""
    host = Host(peers, security=Security(token="secret"))
    with grpc.insecure_channel(host.address) as channel:
        call = channel.stream_stream(TALK)(
            iter([b"\x00lane"]), metadata=[("poseidon-stream", "1"), (WANTED, "1")]
        )
        with pytest.raises(grpc.RpcError) as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert OFFERED not in dict(call.initial_metadata() or ())


class Plain:
    """The other end of a stream, written with nothing but gRPC and a socket."""

    def __init__(self, address: str) -> None:
        self._has_come, self._is_over = threading.Event(), threading.Event()
        self._channel = grpc.insecure_channel(address)
        self.call = self._channel.stream_stream(TALK)(
            self._words(), metadata=[("poseidon-stream", "1"), (WANTED, "1")]
        )
        port, _, word = dict(self.call.initial_metadata())[OFFERED].partition(":")
        self.lane = socket.create_connection(("127.0.0.1", int(port)), WAIT_S)
        self.lane.sendall(bytes.fromhex(word))
        assert self._read(len(WELCOME)) == WELCOME
        self._has_come.set()

    def _words(self) -> Iterator[bytes]:
        self._has_come.wait(WAIT_S)
        yield b"\x00lane"
        self._is_over.wait(WAIT_S)

    def _read(self, num_bytes: int) -> bytes:
        heard = b""
        while len(heard) < num_bytes:
            more = self.lane.recv(num_bytes - len(heard))
            assert more
            heard += more
        return heard

    def send(self, head: bytes, payload: bytes = b"") -> None:
        lengths = len(head).to_bytes(4, "little") + len(payload).to_bytes(4, "little")
        self.lane.sendall(lengths + head + payload)

    def receive(self) -> tuple[bytes, bytes]:
        lengths = self._read(8)
        head = self._read(int.from_bytes(lengths[:4], "little"))
        return head, self._read(int.from_bytes(lengths[4:], "little"))

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self.lane.close()
        self.call.cancel()
        self._channel.close()


def test_a_lane_can_be_spoken_with_a_plain_socket(peers: Peers) -> None:
    """As docs/protocol.md has it: two lengths, head, payload; greetings from both ends first."""
    host = Host(peers)
    with Plain(host.address) as other:
        assert other.receive() == (b"\x00a" + bytes(8), b"")
        other.send(b"\x00a" + bytes(8))
        other.send(b"\x0ahead", b"payload" * 10_000)
        assert other.receive() == (b"\x0ahead", b"payload" * 10_000)


@pytest.mark.parametrize("dying", ["in a prefix", "in a head", "in a payload"])
def test_who_dies_in_the_middle_of_a_message_has_not_said_it(peers: Peers, dying: str) -> None:
    """The stream waits for resumption and ends; nobody has heard half a message."""
    host = Host(peers, resume_s=0.3)
    with Plain(host.address) as other:
        other.send(b"\x00a" + bytes(8))
        other.send(b"whole")
        assert host.inboxes[0].next() == b"whole"
        half = {"in a prefix": b"\1\0", "in a head": b"\5\0\0\0\0\0\0\0he"}
        payload = b"\4\0\0\0" + (1_000_000).to_bytes(4, "little") + b"head" + bytes(400_000)
        other.lane.sendall(half.get(dying, payload))
    assert isinstance(host.inboxes[0].end(), PeerLost)
    assert host.inboxes[0].messages.empty()


@pytest.mark.parametrize("lengths", [(MAX_MESSAGE_BYTES, 1), (2**32 - 1, 2**32 - 1), (1, 2**31)])
def test_a_message_that_is_too_long_is_refused_before_memory_is_taken(
    peers: Peers, lengths: tuple[int, int]
) -> None:
    """And ends the stream, as any nonsense does."""
    host = Host(peers)
    with Plain(host.address) as other:
        other.lane.sendall(b"".join(each.to_bytes(4, "little") for each in lengths))
        error = host.inboxes[0].end()
        assert isinstance(error, ProtocolError) and str(MAX_MESSAGE_BYTES) in str(error)
        with pytest.raises(grpc.RpcError) as raised:
            list(other.call)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_who_says_that_it_has_come_and_has_not_is_given_up(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, which is not the server's other streams' concern."""
    monkeypatch.setattr("poseidon_tf.transport.lane_port.PATIENCE_S", 0.2)
    host = Host(peers, resume_s=0.0)
    with grpc.insecure_channel(host.address) as channel:
        is_over = threading.Event()

        def words() -> Iterator[bytes]:
            yield b"\x00lane"
            is_over.wait(WAIT_S)

        call = channel.stream_stream(TALK)(
            words(), metadata=[("poseidon-stream", "1"), (WANTED, "1")]
        )
        list(call)
        is_over.set()
    assert isinstance(host.inboxes[0].end(), PeerLost)


def test_half_of_a_lane_reads_what_is_ahead_of_it() -> None:
    """Messages that come in one piece of the network, or byte by byte, are the same messages."""
    sent = [whole(message) for message in some_messages(3, 60, largest=20_000)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    lane = Lane(here, traffic=Traffic(), keepalive_s=30.0)
    stream = b"".join(
        len(each[:3]).to_bytes(4, "little") + len(each[3:]).to_bytes(4, "little") + each
        for each in sent
    )
    rng = random.Random(4)

    def trickle() -> None:
        at = 0
        while at < len(stream):
            size = rng.choice([1, 7, 100, 30_000])
            there.sendall(stream[at : at + size])
            at += size
        there.close()

    thread = threading.Thread(target=trickle)
    thread.start()
    assert [whole(message) for message in lane.receive()] == sent
    thread.join(WAIT_S)


def test_the_kernel_holds_little_that_it_has_not_sent() -> None:
    """What is more urgent cannot overtake it; without a limit it would be megabytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    lane = Lane(here, traffic=Traffic(), keepalive_s=30.0)
    here.setblocking(False)
    with pytest.raises(BlockingIOError):  # The other end reads nothing.
        lane.send(Segments(b"head", [bytes(32 * 1024 * 1024)]))
    asked = fcntl.ioctl(here, _SIOCOUTQNSD, bytes(4))
    most_of_a_packet = 64 * 1024
    assert 0 < int.from_bytes(asked, sys.byteorder) < UNSENT_BYTES + most_of_a_packet
    here.close()
    there.close()


def test_a_call_that_ends_before_a_lane_is_offered_has_broken() -> None:
    """Whatever gRPC says to who would answer it then."""

    def refuse(metadata: object) -> None:
        raise grpc.RpcError()

    context: Any = SimpleNamespace(peer=lambda: "somebody", send_initial_metadata=refuse)
    port = LanePort("127.0.0.1")
    accepted = Accepted(
        iter(()), context, is_asked=True, port=port, traffic=Traffic(), keepalive_s=30.0
    )
    with pytest.raises(Broken):
        list(accepted.incoming())
    port.close()


def test_a_lane_that_was_cut_before_it_began_has_broken() -> None:
    """The stream tries again."""
    here, there = socket.socketpair()
    there.close()
    here.close()
    with pytest.raises(Broken):
        Lane(here, traffic=Traffic(), keepalive_s=30.0)
