"""Streams over gRPC: what arrives, how they end, and whom they tell why."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError, PeerLost, ProtocolError
from poseidon_tf.transport.base import GRPC_PREFIX_BYTES, MAX_MESSAGE_BYTES
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream
from poseidon_tf.wire.frame_pb2 import Part
from poseidon_tf.wire.frames import decode
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

TALK = "/test.Talk/Talk"


class Host:
    """A server whose streams are kept; each says back what it hears, or what `accept` says."""

    def __init__(
        self,
        peers: Peers,
        *,
        accept: Callable[..., Any] = lambda stream: None,
        hear: Callable[..., Any] | None = None,
        max_streams: int = 4,
    ) -> None:
        self.streams: list[Stream] = []
        self.inboxes: list[Inbox] = []
        self._accept, self._hear = accept, hear
        self.server = peers.server(max_streams=max_streams)
        self.server.add_stream(TALK, self._open)
        self.server.start()
        self.address = self.server.address

    def _open(self, stream: Stream) -> Inbox:
        self._accept(stream)
        inbox = Inbox(self._hear or stream.send)
        closed = inbox.on_closed

        def on_closed(error: Exception | None) -> None:
            closed(error)
            stream.close()

        inbox.on_closed = on_closed  # type: ignore[method-assign]
        self.streams.append(stream)
        self.inboxes.append(inbox)
        return inbox


def test_messages_come_back_in_order(peers: Peers) -> None:
    """Two hundred messages of all sizes return as they went, and both ends end properly."""
    host, inbox = Host(peers), Inbox()
    stream = peers.channel(host.address).open_stream(TALK, inbox, metadata={"rank": "3"})
    sent = [bytes([n]) * (n * n) for n in range(200)]
    for message in sent:
        stream.send(message)
    assert [inbox.next() for _ in sent] == sent
    stream.close()
    assert stream.wait_ended(timeout_s=WAIT_S)
    assert inbox.end() is None and host.inboxes[0].end() is None
    assert host.streams[0].metadata["rank"] == "3"


def test_a_server_that_has_stopped_reads_no_more(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reading threads have ended when `stop` returns, not a moment later."""
    stopping, live = threading.Event(), Server._live

    def lingering(self: Server, *args: Any) -> None:
        live(self, *args)
        stopping.wait(WAIT_S)

    monkeypatch.setattr(Server, "_live", lingering)
    host, inbox = Host(peers), Inbox()
    peers.channel(host.address).open_stream(TALK, inbox).send(b"hello")
    assert inbox.next() == b"hello"
    (reader,) = host.server._readers.values()
    threading.Timer(0.5, stopping.set).start()
    host.server.stop(grace_s=0.0)
    assert stopping.is_set() and not reader.is_alive()


def test_both_ends_count_the_same_traffic(peers: Peers) -> None:
    """Bytes and messages that one end sent, with gRPC's prefix, are those the other received.

    Each end greets, ends, and says that the other's end has come.
    """
    host, inbox = Host(peers), Inbox()
    stream = peers.channel(host.address).open_stream(TALK, inbox)
    sizes = [0, 1, 1000, 300_000]
    for size in sizes:
        stream.send(b"x" * size)
    stream.close()
    assert stream.wait_ended(timeout_s=WAIT_S) and inbox.end() is None
    assert host.streams[0].wait_ended(timeout_s=WAIT_S)
    own_words = [10, 2, 10]
    num_messages = len(sizes) + len(own_words)
    num_bytes = sum(sizes) + sum(own_words) + num_messages * GRPC_PREFIX_BYTES
    for traffic in (stream.traffic, host.streams[0].traffic):
        assert (traffic.sent_bytes, traffic.sent_messages) == (num_bytes, num_messages)
        assert (traffic.received_bytes, traffic.received_messages) == (num_bytes, num_messages)


def test_a_refused_stream_hears_the_reason(peers: Peers) -> None:
    """What `accept` raises reaches whoever opened the stream, as a ProtocolError."""

    def accept(stream: Stream) -> None:
        raise ConfigError(f"rank {stream.metadata['rank']} is not of this cluster")

    host, inbox = Host(peers, accept=accept), Inbox()
    peers.channel(host.address).open_stream(TALK, inbox, metadata={"rank": "9"})
    error = inbox.end()
    assert isinstance(error, ProtocolError)
    assert "rank 9 is not of this cluster" in str(error) and host.address in str(error)


def test_a_refused_message_ends_the_stream_on_both_ends(peers: Peers) -> None:
    """The sender hears why; the receiver that refused gets its own exception."""

    def hear(message: bytes) -> None:
        raise ProtocolError(f"{message!r} makes no sense")

    host, inbox = Host(peers, hear=hear), Inbox()
    stream = peers.channel(host.address).open_stream(TALK, inbox)
    stream.send(b"hm")
    error = inbox.end()
    assert isinstance(error, ProtocolError) and "b'hm' makes no sense" in str(error)
    assert "makes no sense" in str(host.inboxes[0].end())
    assert host.inboxes[0].messages.empty()


def test_a_client_that_cannot_go_on_cuts_its_stream(peers: Peers) -> None:
    """The client's receiver gets its own exception, and the server's hears of the end."""

    def hear(message: bytes) -> None:
        raise ZeroDivisionError("in the receiver")

    host, inbox = Host(peers), Inbox(hear)
    stream = peers.channel(host.address).open_stream(TALK, inbox)
    stream.send(b"say this back")
    assert isinstance(inbox.end(), ZeroDivisionError)
    assert isinstance(host.inboxes[0].end(), PeerLost)


def test_a_stream_too_many_is_refused_and_a_freed_place_is_not(peers: Peers) -> None:
    """Of two streams where one fits the second hears so; when the first ends another fits."""
    host = Host(peers, max_streams=1)
    channel = peers.channel(host.address)
    first_inbox, second_inbox, third_inbox = Inbox(), Inbox(), Inbox()
    first = channel.open_stream(TALK, first_inbox)
    first.send(b"a")
    assert first_inbox.next() == b"a"
    channel.open_stream(TALK, second_inbox)
    error = second_inbox.end()
    assert isinstance(error, ProtocolError)
    assert "a stream too many: this cluster needs 1 here" in str(error)
    first.close()
    assert first.wait_ended(timeout_s=WAIT_S)
    third = channel.open_stream(TALK, third_inbox)
    third.send(b"c")
    assert third_inbox.next() == b"c"


def test_a_message_beyond_the_limit_is_not_sent(peers: Peers) -> None:
    """gRPC refuses it before the receiver has to find memory."""
    host, inbox = Host(peers), Inbox()
    stream = peers.channel(host.address).open_stream(TALK, inbox)
    stream.send(b"a")
    assert inbox.next() == b"a"
    stream.send(bytes(MAX_MESSAGE_BYTES + 1))
    assert isinstance(inbox.end(), ProtocolError)
    assert isinstance(host.inboxes[0].end(), PeerLost)
    assert host.inboxes[0].messages.qsize() == 1


def test_a_cut_connection_is_a_lost_peer(peers: Peers) -> None:
    """Whoever cuts it, the client hears PeerLost with the server's address; the server hears."""
    host, inbox = Host(peers), Inbox()
    stream = peers.channel(host.address).open_stream(TALK, inbox)
    stream.send(b"a")
    assert inbox.next() == b"a"
    host.server.stop(grace_s=0.0)
    assert isinstance(inbox.end(), PeerLost) and host.address in str(inbox.end())

    host, inbox = Host(peers), Inbox()
    channel = peers.channel(host.address)
    channel.open_stream(TALK, inbox).send(b"a")
    assert inbox.next() == b"a"
    channel.close()
    assert isinstance(inbox.end(), PeerLost)
    assert isinstance(host.inboxes[0].end(), PeerLost)


def test_parts_that_wait_together_leave_together(peers: Peers) -> None:
    """A stream fed by a frame queue sends many small parts in few messages."""
    host, inbox = Host(peers, hear=lambda message: None), Inbox()
    outgoing = FrameQueue()
    outgoing.put_parts([(Part(key=key, length=100), bytes(100)) for key in range(600)])
    stream = peers.channel(host.address).open_stream(TALK, inbox, outgoing=outgoing)
    stream.close()
    assert stream.wait_ended(timeout_s=WAIT_S) and host.inboxes[0].end() is None
    assert host.inboxes[0].messages.qsize() == 1
    assert len(decode(host.inboxes[0].next())[0].parts) == 600


@pytest.mark.parametrize("ending", ["close", "stop", "both"])
def test_no_thread_is_left_after_the_end(ending: str) -> None:
    """With streams open, closing the channel, stopping the server or both ends every thread."""
    before = set(threading.enumerate())
    server = Server("127.0.0.1:0", max_streams=4)
    server.add_stream(TALK, lambda stream: Inbox(stream.send))
    server.start()
    channel = Channel(server.address)
    inboxes = [Inbox() for _ in range(3)]
    for inbox in inboxes:
        channel.open_stream(TALK, inbox).send(b"a")
    assert [inbox.next() for inbox in inboxes] == [b"a"] * 3
    if ending != "stop":
        channel.close()
        assert all(inbox.end() for inbox in inboxes)
    server.stop(grace_s=0.0)
    assert all(inbox.end() for inbox in inboxes)
    channel.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert set(threading.enumerate()) <= before
