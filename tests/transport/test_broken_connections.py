"""Streams whose connections are reset in the middle of messages: nobody above notices."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc
import pytest

from poseidon_tf.errors import PeerLost, ProtocolError
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import decode, encode
from tests.support.proxies import Proxy
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

TALK, ASK = "/test.Talk/Talk", "/test.Talk/Ask"


class Host:
    """A server that says back what it hears, until the other end has ended."""

    def __init__(self, peers: Peers, *, resume_s: float = WAIT_S, max_streams: int = 4) -> None:
        self.inboxes: list[Inbox] = []
        self.streams: list[Stream] = []
        settings = ConnectionSettings(resume_s=resume_s)
        self.server = peers.server(max_streams=max_streams, settings=settings)
        self.server.add_stream(TALK, self._accept)
        self.server.add_unary(ASK, lambda request: request[::-1])
        self.server.start()

    def _accept(self, stream: Stream) -> Inbox:
        inbox = Inbox(stream.send)
        self.streams.append(stream)
        self.inboxes.append(inbox)
        return inbox


OpenChannel: TypeAlias = Callable[..., Channel]


@pytest.fixture
def open_channel() -> Iterator[OpenChannel]:
    channels = []

    def build(address: str, resume_s: float = WAIT_S) -> Channel:
        channels.append(Channel(address, settings=ConnectionSettings(resume_s=resume_s)))
        return channels[-1]

    yield build
    for channel in channels:
        channel.close()


def limits(seed: int, least: int, most: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randrange(least, most)


@pytest.mark.parametrize("seed", range(5))
def test_messages_come_back_once_and_in_order(
    peers: Peers, open_channel: OpenChannel, seed: int
) -> None:
    """400 messages there and back over dozens of connections, each reset after some bytes."""
    rng = random.Random(seed)
    sent = [rng.randbytes(rng.choice([0, 1, 100, 20_000])) for _ in range(400)]
    host, inbox = Host(peers), Inbox()
    with Proxy(host.server.address, limits(seed, 60_000, 300_000)) as proxy:
        stream = open_channel(proxy.address).open_stream(TALK, inbox)
        for message in sent:
            stream.send(message)
        assert [inbox.next() for _ in sent] == sent
        stream.close()
        assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
        assert proxy.num_resets >= 8
    (there,) = host.inboxes
    assert there.end() is None and there.messages.qsize() == len(sent)


def test_a_stream_that_only_receives_goes_on(peers: Peers, open_channel: OpenChannel) -> None:
    """Frames of parts, within a window of credit, in one direction only."""
    received: list[int] = []
    done = threading.Event()

    class Taking:
        """Gives the credit back that each frame used."""

        def __init__(self, stream: Stream) -> None:
            self._queue = stream.outgoing = FrameQueue()

        def on_message(self, message: bytes) -> None:
            header, payloads = decode(message)
            self._queue.give_credit(sum(map(len, payloads)))
            received.extend(part.key for part in header.parts)

        def on_closed(self, error: Exception | None) -> None:
            assert error is None
            self._queue.close()
            done.set()

    class Crediting:
        def on_message(self, message: bytes) -> None:
            outgoing.take_credit(decode(message)[0].credit)

        def on_closed(self, error: Exception | None) -> None:
            assert error is None

    server = peers.server(settings=ConnectionSettings(resume_s=WAIT_S))
    server.add_stream(TALK, Taking)
    server.start()
    outgoing = FrameQueue(window_bytes=150_000)
    with Proxy(server.address, limits(1, 200_000, 400_000)) as proxy:
        stream = open_channel(proxy.address).open_stream(TALK, Crediting(), outgoing=outgoing)
        outgoing.put_parts([(Part(key=key, length=70_000), bytes(70_000)) for key in range(100)])
        outgoing.finish(encode(FrameHeader(), []))  # After all parts; `close` would drop some.
        assert done.wait(WAIT_S) and stream.wait_ended(timeout_s=WAIT_S)
        assert proxy.num_resets >= 10
    assert received == list(range(100))


def test_a_connection_that_breaks_while_nothing_is_said_is_made_again(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Both ways: what is said after it arrives; again and again, and the ends are in order."""
    host, inbox = Host(peers, resume_s=0.5), Inbox()
    with Proxy(host.server.address) as proxy:
        stream = open_channel(proxy.address, 0.5).open_stream(TALK, inbox)
        for number in range(1, 20):
            stream.send(bytes([number]))
            assert inbox.next() == bytes([number])
            proxy.reset()
        stream.close()
        assert stream.wait_ended(timeout_s=WAIT_S)
        assert inbox.end() is None and host.inboxes[0].end() is None
        assert len(host.inboxes) == 1 and proxy.num_connections >= 19


def test_a_slow_line_is_given_the_time_to_connect_again(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """One attempt is enough where the first words take most of the time that there is."""
    host, inbox = Host(peers, resume_s=2.0), Inbox()
    with Proxy(host.server.address, silent_s=1.0) as proxy:
        stream = open_channel(proxy.address, 2.0).open_stream(TALK, inbox)
        for number in range(1, 4):
            stream.send(bytes([number]))
            assert inbox.next() == bytes([number])
            assert proxy.num_connections == number
            proxy.reset()


def test_a_stream_that_has_ended_is_not_taken_up_again(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """No connection is made after the end, and its place is free for another."""
    host, inbox = Host(peers, max_streams=1), Inbox()
    with Proxy(host.server.address) as proxy:
        channel = open_channel(proxy.address)
        stream = channel.open_stream(TALK, inbox)
        stream.close()
        assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
        proxy.reset()
        with pytest.raises(PeerLost, match="no answer"):
            Channel(proxy.address).call("/test.Talk/Nobody", b"", timeout_s=WAIT_S)
        assert proxy.num_connections == 2
        again = Inbox()
        open_channel(proxy.address).open_stream(TALK, again).send(b"a")
        assert again.next() == b"a"
    assert len(host.inboxes) == 2


def test_a_stream_that_is_taken_up_again_keeps_its_place(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Where one stream fits, its second connection is no second stream."""
    host, inbox, other = Host(peers, max_streams=1), Inbox(), Inbox()
    with Proxy(host.server.address) as proxy:
        stream = open_channel(proxy.address).open_stream(TALK, inbox)
        for message in (b"a", b"b"):
            stream.send(message)
            assert inbox.next() == message
            proxy.reset()
        open_channel(host.server.address).open_stream(TALK, other)
        assert "a stream too many" in str(other.end())


def test_a_peer_that_cannot_be_reached_again_is_lost_after_a_while(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Both ends say so, with the address and the time, which is what was asked for or longer."""
    host, inbox = Host(peers, resume_s=0.6), Inbox()
    with Proxy(host.server.address) as proxy:
        stream = open_channel(proxy.address, 0.6).open_stream(TALK, inbox)
        stream.send(b"a")
        assert inbox.next() == b"a"
        broke_s = time.monotonic()
        proxy.turn_away()
        here, there = inbox.end(), host.inboxes[0].end()
        took_s = time.monotonic() - broke_s
        assert isinstance(here, PeerLost) and isinstance(there, PeerLost)
        assert f"connection to {proxy.address} lost" in str(here)
        for end in (here, there):  # It names the time that passed, which is a little more.
            found = re.search(r"not taken up again in (\d\.\d) s", str(end))
            assert found is not None and 0.6 <= float(found[1]) < 2.6, end
        assert 0.6 <= took_s < 0.6 + 2.0
        assert proxy.num_connections >= 4
        assert stream.wait_ended(timeout_s=WAIT_S)


def test_nobody_listening_is_the_end_at_once(peers: Peers, open_channel: OpenChannel) -> None:
    """A process that is gone is not waited for."""
    host, inbox = Host(peers), Inbox()
    with Proxy(host.server.address) as proxy:
        open_channel(proxy.address).open_stream(TALK, inbox).send(b"a")
        assert inbox.next() == b"a"
        broke_s = time.monotonic()
        proxy.stop_listening()
        error = inbox.end()
        assert isinstance(error, PeerLost) and "Connection refused" in str(error)
        assert time.monotonic() - broke_s < WAIT_S / 4


def test_without_resumption_a_broken_connection_is_the_end(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """0 seconds: no second connection is made."""
    host, inbox = Host(peers, resume_s=0.0), Inbox()
    with Proxy(host.server.address) as proxy:
        open_channel(proxy.address, 0.0).open_stream(TALK, inbox).send(b"a")
        assert inbox.next() == b"a"
        proxy.reset()
        assert isinstance(inbox.end(), PeerLost) and isinstance(host.inboxes[0].end(), PeerLost)
        assert proxy.num_connections == 1


def test_a_server_that_knows_nothing_of_the_stream_is_not_told_it_anew(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Another server at the same address refuses it: half a stream is none."""
    host, other, inbox = Host(peers), Host(peers), Inbox()
    with Proxy(host.server.address) as proxy:
        open_channel(proxy.address).open_stream(TALK, inbox).send(b"a")
        assert inbox.next() == b"a"
        proxy.target = other.server.address
        proxy.reset()
        error = inbox.end()
        assert isinstance(error, PeerLost) and "the stream has ended there" in str(error)
    assert other.inboxes == []


def test_a_message_that_never_gets_through_ends_the_stream(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Connections that all break in the same message do not keep it alive for ever."""
    host, inbox = Host(peers, resume_s=0.5), Inbox()
    with Proxy(host.server.address, limits(0, 50_000, 50_001)) as proxy:
        stream = open_channel(proxy.address, 0.5).open_stream(TALK, inbox)
        stream.send(b"a")
        assert inbox.next() == b"a"
        stream.send(bytes(1_000_000))
        assert isinstance(inbox.end(), PeerLost) and isinstance(host.inboxes[0].end(), PeerLost)
        assert proxy.num_resets >= 2


def test_a_refusal_is_heard_though_connections_break(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """What the server's receiver raises ends the stream for good."""

    class Refusing(Inbox):
        def on_message(self, message: bytes) -> None:
            if message == b"bad":
                raise ProtocolError("bad makes no sense")

    refusing, inbox = Refusing(), Inbox()
    server = peers.server(settings=ConnectionSettings(resume_s=WAIT_S))
    server.add_stream(TALK, lambda stream: refusing)
    server.start()
    with Proxy(server.address) as proxy:
        stream = open_channel(proxy.address).open_stream(TALK, inbox)
        stream.send(b"good")
        proxy.reset()
        stream.send(b"bad")
        assert isinstance(inbox.end(), ProtocolError)
        assert "bad makes no sense" in str(refusing.end())


NONSENSE = [b"\x00", b"\x00z", b"\x00a123", b"\x00a" + b"\xff" * 8, b"\x00e\x00"]


@pytest.mark.parametrize("message", [*NONSENSE, b"\x00eafter"], ids=repr)
def test_nonsense_about_the_stream_is_refused(
    peers: Peers, message: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a peer that does not keep to the rules, before and after its end; no thread dies."""
    host = Host(peers)
    with grpc.insecure_channel(host.server.address) as channel:
        said = [b"\x00e", b"after"] if message == b"\x00eafter" else [message]
        answers = channel.stream_stream(TALK)(iter(said), metadata=[("poseidon-stream", "1")])
        with pytest.raises(grpc.RpcError) as raised:
            list(answers)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = host.inboxes[0].end()
    assert error is None if len(said) == 2 else isinstance(error, ProtocolError)
    assert host.streams[0].wait_ended(timeout_s=WAIT_S)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "metadata, code, text",
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT, "a stream without a number"),
        ([("poseidon-stream", "7" * 65)], grpc.StatusCode.INVALID_ARGUMENT, "without a number"),
        (
            [("poseidon-stream", "7"), ("poseidon-resumes", "1")],
            grpc.StatusCode.NOT_FOUND,
            "the stream has ended there",
        ),
    ],
)
def test_a_call_that_belongs_to_no_stream_is_refused(
    peers: Peers, metadata: list[tuple[str, str]], code: Any, text: str
) -> None:
    """Nobody hears of it."""
    host = Host(peers)
    with grpc.insecure_channel(host.server.address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            list(channel.stream_stream(TALK)(iter([b"a"]), metadata=metadata))
    assert raised.value.code() is code and text in raised.value.details()
    assert host.inboxes == []


def test_a_question_is_not_asked_again_over_a_channel_that_is_closed(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """Whoever waits for the answer hears PeerLost at once."""
    asked, answer = threading.Event(), threading.Event()
    server = peers.server()

    def wait(request: bytes) -> bytes:
        asked.set()
        answer.wait(WAIT_S)
        return request

    server.add_unary(ASK, wait)
    server.start()
    channel = open_channel(server.address)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(channel.call, ASK, b"", timeout_s=2 * WAIT_S)
        assert asked.wait(WAIT_S)
        channel.close()
        try:
            with pytest.raises(PeerLost, match=ASK):
                asking.result(WAIT_S)
        finally:
            answer.set()


def test_a_question_is_asked_again_when_its_connection_breaks(
    peers: Peers, open_channel: OpenChannel
) -> None:
    """The answer comes all the same."""
    host = Host(peers)
    question = random.Random(0).randbytes(100_000)
    with Proxy(host.server.address, [30_000, 150_000, 60_000]) as proxy:
        answer = open_channel(proxy.address).call(ASK, question, timeout_s=WAIT_S)
        assert answer == question[::-1]
        assert proxy.num_resets == 3


@pytest.mark.parametrize("ending", ["channel", "server", "abort"])
def test_no_thread_waits_for_a_peer_that_nobody_wants_any_more(ending: str) -> None:
    """With broken connections, closing either side ends its threads at once, long before the end
    of resumption."""
    before = set(threading.enumerate())
    settings = ConnectionSettings(resume_s=1000.0)
    server = Server("127.0.0.1:0", max_streams=4, settings=settings)
    there = []

    def accept(stream: Stream) -> Inbox:
        there.append(stream)
        return Inbox(stream.send)

    server.add_stream(TALK, accept)
    server.start()
    inbox = Inbox()
    with Proxy(server.address) as proxy:
        channel = Channel(proxy.address, settings=settings)
        stream = channel.open_stream(TALK, inbox)
        stream.send(b"a")
        assert inbox.next() == b"a"
        proxy.turn_away()
        if ending == "abort":
            stream.abort("enough")
            there[0].abort("enough")
            assert "enough" in str(inbox.end())
            assert stream.wait_ended(timeout_s=WAIT_S) and there[0].wait_ended(timeout_s=WAIT_S)
        if ending == "server":
            server.stop(grace_s=0.0)
            assert there[0].wait_ended(timeout_s=WAIT_S)
        channel.close()
        assert stream.wait_ended(timeout_s=WAIT_S)
        server.stop(grace_s=0.0)
        assert there[0].wait_ended(timeout_s=WAIT_S)
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert set(threading.enumerate()) <= before
