"""The process of a server that a worker starts beside itself: how its end is told."""

import os
import queue
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import psutil
import pytest

from poseidon_tf.errors import ConfigError, MemberError, PeerLost
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.own_server import OwnServer
from poseidon_tf.transport.connections import ConnectionSettings

pytestmark = pytest.mark.processes
WAIT_S = 60.0
WHO = r"server 1, which worker rank 1 \(127\.0\.0\.1:2\) has started beside itself, has ended"


Start: TypeAlias = Callable[..., tuple[OwnServer, queue.Queue[Any]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one, and gives what it tells: the errors, and whether the job may know."""
    servers = []

    def start(**changes: Any) -> tuple[OwnServer, queue.Queue[Any]]:
        told: queue.Queue[Any] = queue.Queue()
        options = dict(
            start_timeout_s=WAIT_S, ports=None, memory=None, settings=ConnectionSettings()
        )
        servers.append(
            OwnServer(
                ClusterConfig(workers=("127.0.0.1:1", "127.0.0.1:2"), rank=1),
                on_ended=lambda *end: told.put(end),
                **(options | changes),
            )
        )
        return servers[-1], told

    yield start
    for server in servers:
        server.end(failed=True)


def test_an_error_of_the_user_is_told_as_it_is(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its text alone, and no traceback in the log."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _, told = start(ports=(port, port))
        error, is_in_order = told.get(timeout=WAIT_S)
    assert isinstance(error, ConfigError) and not is_in_order
    assert str(error).endswith(f"has ended: no free port on 127.0.0.1 between {port} and {port}")
    assert capfd.readouterr().err == ""


def test_any_other_error_is_told_too(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own traceback is in the log."""
    soon: Any = "soon"
    server, told = start(settings=ConnectionSettings(keepalive_s=soon))
    error, is_in_order = told.get(timeout=WAIT_S)
    assert type(error) is MemberError and not is_in_order
    assert "has ended: TypeError(" in str(error)
    server.end(failed=True)
    assert "Traceback" in capfd.readouterr().err


def test_what_the_server_met_in_order_may_be_known_already(
    start: Start,
) -> None:
    """Its deadline is its worker's, which hears of it from the coordinator."""
    _, told = start(start_timeout_s=0.1)
    error, is_in_order = told.get(timeout=WAIT_S)
    assert is_in_order
    assert "the coordinator (worker rank 0 at 127.0.0.1:1) cannot be reached" in str(error)


@pytest.mark.parametrize(
    "signum, says", [(signal.SIGKILL, "SIGKILL; if nobody sent it"), (signal.SIGABRT, "SIGABRT$")]
)
def test_a_server_that_is_killed_is_told_of(
    start: Start, signum: signal.Signals, says: str
) -> None:
    """It says nothing itself."""
    before = set(psutil.Process().children())  # Of other tests.
    _, told = start()
    (child,) = set(psutil.Process().children()) - before
    os.kill(child.pid, signum)
    error, is_in_order = told.get(timeout=WAIT_S)
    assert isinstance(error, PeerLost) and not is_in_order
    with pytest.raises(PeerLost, match=f"^{WHO}: it was killed by {says}"):
        raise error


def test_a_server_that_is_told_to_end_is_no_surprise(
    start: Start,
) -> None:
    """And nothing of it stays: the fixtures look at threads and descriptors."""
    before = psutil.Process().children()
    server, told = start()
    server.end(failed=True)
    assert told.empty()
    assert psutil.Process().children() == before
