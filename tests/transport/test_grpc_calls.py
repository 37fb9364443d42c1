"""Servers, ports and unary calls over gRPC."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from poseidon_tf.errors import (
    ConfigError,
    PeerLost,
    ProtocolError,
    StartTimeout,
    StepTimeout,
)
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

ASK = "/test.Talk/Ask"
TALK = "/test.Talk/Talk"


def answering(peers: Peers, answer: Callable[[bytes], bytes], **options: Any) -> Channel:
    """A channel to a server that answers."""
    server = peers.server(**options)
    server.add_unary(ASK, answer)
    server.start()
    return peers.channel(server.address)


@pytest.fixture
def closed_address() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def port_of(server: Server) -> int:
    return int(server.address.rpartition(":")[2])


def test_a_question_has_an_answer(peers: Peers) -> None:
    """The answer's bytes come back for the question's, also empty ones."""
    channel = answering(peers, lambda request: request[::-1])
    assert channel.call(ASK, b"abc", timeout_s=WAIT_S) == b"cba"
    assert channel.call(ASK, b"", timeout_s=WAIT_S) == b""


@pytest.mark.parametrize("kind", [ProtocolError, ConfigError, StepTimeout, ValueError])
def test_a_refusal_comes_back_with_its_text(peers: Peers, kind: type[Exception]) -> None:
    """Whatever of ours `answer` raises is the caller's ProtocolError, with address and reason."""

    def answer(request: bytes) -> bytes:
        raise kind(f"no {request.decode()} here")

    channel = answering(peers, answer)
    with pytest.raises(ProtocolError, match=f"{channel.address} refused: no bread here"):
        channel.call(ASK, b"bread", timeout_s=WAIT_S)


def test_an_answer_that_does_not_come_costs_the_deadline(peers: Peers) -> None:
    """A call gives up after its own deadline and names method, address and seconds."""
    released = threading.Event()

    def answer(request: bytes) -> bytes:
        released.wait(WAIT_S)
        return b""

    channel = answering(peers, answer)
    try:
        with pytest.raises(PeerLost, match=f"{ASK} to {channel.address}: no answer in 0.1 s"):
            channel.call(ASK, b"", timeout_s=0.1)
    finally:
        released.set()


def test_open_streams_leave_room_for_calls(peers: Peers) -> None:
    """With all streams open, twice as many calls are under way together, and all are answered."""
    num_streams = 4
    accepted = threading.Semaphore(0)
    all_asking = threading.Barrier(2 * num_streams)

    def accept(stream: Stream) -> Inbox:
        accepted.release()
        return Inbox()

    def answer(request: bytes) -> bytes:
        all_asking.wait(WAIT_S)
        return request

    server = peers.server(max_streams=num_streams)
    server.add_stream(TALK, accept)
    server.add_unary(ASK, answer)
    server.start()
    channel = peers.channel(server.address)
    for _ in range(num_streams):
        channel.open_stream(TALK, Inbox())
        assert accepted.acquire(timeout=WAIT_S)
    questions = [bytes([number]) for number in range(2 * num_streams)]
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = pool.map(lambda request: channel.call(ASK, request, timeout_s=WAIT_S), questions)
        assert list(answers) == questions


def test_a_call_to_nobody_is_lost_at_once(peers: Peers, closed_address: str) -> None:
    """Where nobody listens any more nobody is waited for, however long there is time."""
    channel = peers.channel(closed_address)
    asked_s = time.monotonic()
    with pytest.raises(PeerLost, match="refused"):
        channel.call(ASK, b"", timeout_s=1000.0)
    assert time.monotonic() - asked_s < WAIT_S


def test_ready_is_when_the_other_side_accepts(peers: Peers) -> None:
    """Waiting for a server that listens returns True."""
    channel = answering(peers, lambda request: request)
    assert channel.wait_ready(timeout_s=WAIT_S)


def test_a_peer_that_takes_its_time_to_answer_is_ready(peers: Peers) -> None:
    """It is not asked anew, for ever, before any answer can have come."""
    server, never = peers.server(), threading.Event()  # It is the time that matters.

    def answer(request: bytes) -> bytes:
        never.wait(1.2)
        return request

    server.add_unary("/poseidon_tf.Ready/Ready", answer)
    server.start()
    assert peers.channel(server.address).wait_ready(timeout_s=WAIT_S)


def test_waiting_for_nobody_ends_at_the_deadline_and_quietly(
    closed_address: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again and again it says no; closing the channel then breaks no thread of gRPC's."""
    broken: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    before = set(threading.enumerate())
    channel = Channel(closed_address)
    assert not any(channel.wait_ready(timeout_s=timeout_s) for timeout_s in (0.1, 0.1, 0.0))
    channel.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
    assert not broken
    assert "Traceback" not in capfd.readouterr().err


def test_waiting_for_a_peer_ends_when_it_is_in_vain(peers: Peers, closed_address: str) -> None:
    """Long before the deadline, and not for the channel's sake: it may be used again."""
    over = threading.Event()
    threading.Timer(0.3, over.set).start()
    channel = peers.channel(closed_address)
    with pytest.raises(StartTimeout, match=f"^worker rank 3 at {closed_address} cannot be reached"):
        channel.reach("worker rank 3", timeout_s=3600.0, over=over)
    assert not channel.wait_ready(timeout_s=0.1)


def test_two_servers_never_share_a_port(peers: Peers) -> None:
    """The second is told that the port is in use, and the first goes on."""
    server = peers.server()
    server.add_unary(ASK, lambda request: request)
    server.start()
    with pytest.raises(ConfigError, match=f"{server.address}: the port is in use"):
        peers.server(server.address)
    assert peers.channel(server.address).call(ASK, b"a", timeout_s=WAIT_S) == b"a"


def test_a_port_is_taken_from_the_range(peers: Peers) -> None:
    """Port 0 with a range means the first free one of it; a given port stays as it is."""
    first = port_of(peers.server())
    second = port_of(peers.server(ports=(first, first + 50)))
    assert first < second <= first + 50
    with pytest.raises(ConfigError, match=f"no free port on 127.0.0.1 between {first} and {first}"):
        peers.server(ports=(first, first))


def test_a_port_of_the_range_that_is_somebody_elses_is_left_alone(peers: Peers) -> None:
    """Its owner may start later."""
    first = port_of(peers.server())
    free = peers.server(ports=(first, first + 50))
    free.stop(grace_s=0.0)
    ports = (first, first + 50)
    spared = peers.server(ports=ports, spared=port_of(free))
    assert port_of(free) < port_of(spared) <= first + 50
    assert peers.server(ports=ports).address == free.address


def test_a_stopped_server_gives_its_port_back(peers: Peers) -> None:
    """Another server can listen where one has stopped."""
    server = peers.server()
    server.start()
    server.stop(grace_s=0.0)
    again = peers.server(server.address)
    assert again.address == server.address


def test_a_server_that_never_served_gives_its_port_back_too(peers: Peers) -> None:
    """As where something else fails before it has begun; gRPC would keep it."""
    server = peers.server()
    server.stop()
    assert peers.server(server.address).address == server.address


def test_an_address_of_a_load_balancer_listens_on_all_interfaces(peers: Peers) -> None:
    """A host that is not this machine's keeps its name and is served all the same."""
    server = peers.server("192.0.2.1:0")  # TEST-NET-1: nobody's.
    server.add_unary(ASK, lambda request: request)
    server.start()
    assert server.address == f"192.0.2.1:{port_of(server)}"
    channel = peers.channel(f"127.0.0.1:{port_of(server)}")
    assert channel.call(ASK, b"a", timeout_s=WAIT_S) == b"a"


@pytest.mark.parametrize("host", ["[::1]", "[0:0::1]", "localhost", "0.0.0.0", "[::]"])
def test_a_server_is_called_at_the_host_that_it_was_given(peers: Peers, host: str) -> None:
    """IPv6 with its brackets, a name, or all interfaces: its address is one to call."""
    server = peers.server(f"{host}:0")
    server.add_unary(ASK, lambda request: request)
    server.start()
    assert server.address == str(Address.parse(f"{host}:{port_of(server)}"))
    assert peers.channel(server.address).call(ASK, b"a", timeout_s=WAIT_S) == b"a"
    with pytest.raises(ConfigError, match=re.escape(f"{server.address}: the port is in use")):
        peers.server(server.address)


def test_a_name_is_taken_where_one_of_its_addresses_is(peers: Peers) -> None:
    """Whoever calls the name would reach the other program."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"localhost:{port}: the port is in use"):
            peers.server(f"localhost:{port}")


def test_an_ipv6_address_of_a_load_balancer_listens_on_all_interfaces(peers: Peers) -> None:
    """Of both kinds."""
    server = peers.server("[2001:db8::1]:0")  # For documentation: nobody's.
    server.add_unary(ASK, lambda request: request)
    server.start()
    assert server.address == f"[2001:db8::1]:{port_of(server)}"
    for host in ("[::1]", "127.0.0.1"):
        channel = peers.channel(f"{host}:{port_of(server)}")
        assert channel.call(ASK, b"a", timeout_s=WAIT_S) == b"a"


def test_where_nobody_may_listen_the_reason_is_told_at_once(
    peers: Peers, capfd: pytest.CaptureFixture[str]
) -> None:
    """Waiting for a port is for ports in use; gRPC's own log stays silent."""
    start_s = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot listen on \[fe80::1\]:5000: .*Invalid argument"):
        peers.server("[fe80::1]:5000", patience_s=WAIT_S)  # On which interface?
    assert time.monotonic() - start_s < WAIT_S / 2
    assert "Failed to add port" not in capfd.readouterr().err


@pytest.mark.parametrize("address", ["host", "::1:80", "unix:/tmp/socket", "host:0"])
def test_what_is_no_address_is_not_called(address: str) -> None:
    """Wherever it came from; gRPC would take some of them for other things than hosts."""
    with pytest.raises(ConfigError):
        Channel(address)
