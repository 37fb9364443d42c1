"""A peer that is stopped counts as dead; one that holds its interpreter's lock does not, and one
whose connection is silent connects anew."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time

import pytest

from poseidon_tf.errors import PeerLost
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.streams import Stream
from tests.support.jobs import script_named
from tests.support.ports import free_addresses
from tests.support.proxies import Proxy
from tests.transport.grpc_peers import WAIT_S, Inbox, Peers

pytestmark = pytest.mark.connections

SLACK_S = 8.0  # For a busy machine, and for what is tried after the break.
MESSAGE = bytes(64 * 1024)


class Talk:
    """A stream to a process that is about to fall silent, on which we go on talking or not.

    Args:
      role: of the other process.
      talks: whether something is under way to it all the time.
    """

    def __init__(self, role: str, how: str, *, keepalive_s: float, talks: bool) -> None:
        (self._address,) = free_addresses(1)
        self._settings = ConnectionSettings(keepalive_s=keepalive_s)
        self._role, self._talks = role, talks
        arguments = [role, self._address, str(keepalive_s), how]
        self.process = subprocess.Popen(
            [sys.executable, str(script_named("silent_peer.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.closed = threading.Event()
        self._inbox = Inbox()

    def __enter__(self) -> Talk:
        self._stack = contextlib.ExitStack()
        if self._role == "server":
            channel = Channel(self._address, settings=self._settings)
            self._stack.callback(channel.close)
            assert channel.wait_ready(timeout_s=WAIT_S)
            self._started(channel.open_stream("/Test/Talk", self))
        else:
            server = Server(self._address, max_streams=1, settings=self._settings)
            self._stack.callback(server.stop, grace_s=0.0)
            server.add_stream("/Test/Talk", self._accept)
            server.start()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "READY\n"
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        assert self.closed.wait(WAIT_S)
        self._stack.close()

    def _accept(self, stream: Stream) -> Talk:
        self._started(stream)
        return self

    def _started(self, stream: Stream) -> None:
        self.stream = stream
        stream.send(b"hello")

    def on_message(self, message: bytes) -> None:
        self._inbox.on_message(message)

    def on_closed(self, error: Exception | None) -> None:
        self._inbox.on_closed(error)
        self.closed.set()

    @property
    def errors(self) -> list[Exception | None]:
        return self._inbox.errors

    def wait_closed(self, timeout_s: float) -> bool:
        """Whether the stream ends in that time."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and not self.closed.is_set():
            self.say_something()
            self.closed.wait(0.1)
        return self.closed.is_set()

    def say_something(self) -> None:
        if self._talks:
            self.stream.send(MESSAGE)

    def fall_silent(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.mark.parametrize("talks", [False, True], ids=["idle", "talking"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_a_stopped_peer_is_dead_after_the_keepalive(role: str, talks: bool) -> None:
    """Its host still acknowledges what arrives; only the process does not answer."""
    with Talk(role, "SIGSTOP", keepalive_s=2.0, talks=talks) as talk:
        talk.fall_silent()
        assert talk.wait_closed(2.0 + SLACK_S)
        (error,) = talk.errors
        # gRPC tells a server's handler of some ends as of any other.
        assert error is None and role == "client" or isinstance(error, PeerLost)


@pytest.mark.parametrize(
    "keepalive_s, hold_s",
    [(4, 8), pytest.param(30, 60, marks=[pytest.mark.thorough, pytest.mark.timeout(120)])],
)
def test_a_peer_that_holds_its_interpreter_is_alive(keepalive_s: int, hold_s: int) -> None:
    """Threads of gRPC's answer, which need no lock of Python's, at either end of a stream."""
    with contextlib.ExitStack() as stack:
        talks = [
            stack.enter_context(
                Talk(role, str(hold_s), keepalive_s=float(keepalive_s), talks=is_talking)
            )
            for role in ("server", "client")
            for is_talking in (False, True)
        ]
        for talk in talks:
            talk.fall_silent()
        deadline_s = time.monotonic() + hold_s
        while time.monotonic() < deadline_s:
            for talk in talks:
                talk.say_something()
            talks[0].closed.wait(0.1)
        for talk in talks:
            assert talk.process.stdout is not None
            assert talk.process.stdout.readline() == "AWAKE\n"
            assert not talk.closed.is_set() and talk.errors == []


def test_who_can_connect_anew_is_the_first_to_lose_patience(peers: Peers) -> None:
    """What the server says does not get through: it is the client that gives the connection up,
    though it has noticed later, and the stream goes on over another."""
    settings = ConnectionSettings(keepalive_s=6.0, resume_s=0.4)
    there: queue.SimpleQueue[tuple[Stream, Inbox]] = queue.SimpleQueue()
    inbox = Inbox()

    def accept(stream: Stream) -> Inbox:
        there.put((stream, receiver := Inbox()))
        return receiver

    server = peers.server(settings=settings)
    server.add_stream("/Test/Talk", accept)
    server.start()
    with Proxy(server.address) as proxy:
        channel = peers.channel(proxy.address, settings=settings)
        channel.open_stream("/Test/Talk", inbox).send(b"hello")
        stream, receiver = there.get(timeout=WAIT_S)
        assert receiver.next() == b"hello"
        stream.send(b"hello")
        assert inbox.next() == b"hello"
        proxy.deafen()
        said = [bytes([number]) * 2**20 for number in range(16)]  # More than the kernel keeps.
        for message in said:
            stream.send(message)
        assert [inbox.next() for _ in said] == said
        assert proxy.num_connections == 2
        assert inbox.errors == receiver.errors == []
