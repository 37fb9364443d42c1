"""Where lanes come in: who has the word gets in, once; nobody else holds anything."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from poseidon_tf.transport import lane_port, lanes
from poseidon_tf.transport.lane_port import MAX_STRANGERS, LanePort, Offer
from poseidon_tf.transport.lanes import WELCOME
from tests.transport.grpc_peers import WAIT_S

pytestmark = pytest.mark.connections

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[LanePort]:
    port = LanePort(HOST)
    yield port
    port.close()


def stranger(port: LanePort, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection((HOST, port.port), WAIT_S)
    connection.sendall(said)
    return connection


def is_cut_off(connection: socket.socket) -> bool:
    """Waits for the end; nothing may come before it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def taken(offer: Offer) -> socket.socket:
    """The connection that the offer was taken by."""
    connection = offer.wait()
    assert connection is not None
    return connection


def test_who_says_the_word_has_the_lane(port: LanePort) -> None:
    """And both ends talk."""
    with port.offer() as offer:
        with lanes.connect(HOST, offer.place) as here, taken(offer) as there:
            here.sendall(b"a")
            there.setblocking(True)
            assert there.recv(1) == b"a"


def test_a_word_may_come_in_pieces(port: LanePort) -> None:
    """As the network likes."""
    with port.offer() as offer, stranger(port) as here:
        for byte in offer.word:
            here.sendall(bytes([byte]))
        assert here.recv(len(WELCOME), socket.MSG_WAITALL) == WELCOME
        taken(offer).close()


def test_a_word_is_good_once(port: LanePort) -> None:
    """The second one to say it is a stranger."""
    with port.offer() as offer:
        with lanes.connect(HOST, offer.place):
            with stranger(port, offer.word) as second:
                assert is_cut_off(second)
            taken(offer).close()


def test_a_word_of_a_call_that_has_ended_is_good_no_more(port: LanePort) -> None:
    """Nor does a connection that came too late stay open."""
    with port.offer() as offer:
        pass
    with stranger(port, offer.word) as late:
        assert is_cut_off(late)
    with port.offer() as offer:
        here = lanes.connect(HOST, offer.place)
    with here:
        assert is_cut_off(here)
    assert offer.wait() is None


@pytest.mark.parametrize("said", [b"x" * 32, b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n"])
def test_who_says_something_else_is_cut_off(port: LanePort, said: bytes) -> None:
    """At once, and the next one is heard."""
    with stranger(port, said) as here:
        assert is_cut_off(here)
    with port.offer() as offer, lanes.connect(HOST, offer.place):
        taken(offer).close()


@pytest.mark.parametrize("said", [b"", b"half a word"])
def test_who_says_nothing_is_cut_off_after_a_while(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Nobody waits for it meanwhile."""
    monkeypatch.setattr(lane_port, "PATIENCE_S", 0.3)
    port = LanePort(HOST)
    came_s = time.monotonic()
    with stranger(port, said) as silent:
        with port.offer() as offer, lanes.connect(HOST, offer.place):
            taken(offer).close()
        assert is_cut_off(silent)
        assert 0.3 <= time.monotonic() - came_s < WAIT_S
    port.close()


def test_strangers_are_few_and_the_first_goes_first(port: LanePort) -> None:
    """However many come, a member gets in, and no more than so many are open."""
    strangers = [stranger(port) for _ in range(3 * MAX_STRANGERS)]
    with port.offer() as offer, lanes.connect(HOST, offer.place):
        taken(offer).close()
    cut_off = strangers[: 2 * MAX_STRANGERS]
    assert all(is_cut_off(each) for each in cut_off)
    for each in strangers:
        each.close()


def test_a_port_of_the_range_is_taken_or_none() -> None:
    """Whoever has none is told, with a reason."""
    with socket.create_server((HOST, 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            LanePort(HOST, [number])
    port = LanePort(HOST, [number])
    assert port.port == number
    port.close()


def test_after_the_end_nobody_listens_and_no_thread_is_left() -> None:
    """Strangers are cut off."""
    before = set(threading.enumerate())
    port = LanePort(HOST)
    with stranger(port) as silent:
        port.close()
        assert is_cut_off(silent)
    with pytest.raises(ConnectionRefusedError):
        stranger(port)
    assert set(threading.enumerate()) == before


def test_a_port_may_be_closed_by_several() -> None:
    """As a server may be stopped: it is closed when either comes back."""
    port = LanePort(HOST)
    with ThreadPoolExecutor(4) as pool:
        for closed in [pool.submit(port.close) for _ in range(4)]:
            closed.result(WAIT_S)
    port.close()
    with pytest.raises(ConnectionRefusedError):
        stranger(port)


@pytest.mark.parametrize(
    "place", ["", "x:00", "1:zz", "99999:" + "00" * 32, ":" + "00" * 32, "-1:00"]
)
def test_a_place_that_is_none_is_an_error_of_the_network(place: str) -> None:
    """Whatever a server says, its caller goes on without a lane."""
    with pytest.raises(OSError):
        lanes.connect(HOST, place)


def test_somebody_else_at_the_place_is_not_taken_for_the_server() -> None:
    """Who does not answer as a server does."""
    with socket.create_server((HOST, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        place = f"{listener.getsockname()[1]}:{bytes(32).hex()}"
        with pytest.raises(OSError, match="somebody else"):
            lanes.connect(HOST, place)
        thread.join(WAIT_S)
