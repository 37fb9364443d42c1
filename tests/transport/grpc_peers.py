"""Real servers and channels on the loopback interface, and receivers that keep what they hear."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server

WAIT_S = 20.0  # Far more than anything here takes.


class Inbox:
    """A receiver that keeps messages and how the stream ended; may answer or refuse."""

    def __init__(self, on_message: Callable[[bytes], None] = lambda message: None) -> None:
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.errors: list[Exception | None] = []
        self._on_message = on_message
        self._closed = threading.Event()

    def on_message(self, message: bytes) -> None:
        self._on_message(message)
        self.messages.put(message)

    def on_closed(self, error: Exception | None) -> None:
        self.errors.append(error)
        self._closed.set()

    def next(self) -> bytes:
        return self.messages.get(timeout=WAIT_S)

    def end(self) -> Exception | None:
        """How the stream ended: an error, or None."""
        assert self._closed.wait(WAIT_S)
        (error,) = self.errors
        return error


class Peers:
    """Opens servers and channels, and closes them after the test."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def server(
        self, address: str = "127.0.0.1:0", *, max_streams: int = 4, **options: Any
    ) -> Server:
        server = Server(address, max_streams=max_streams, **options)
        self._stack.callback(server.stop, grace_s=0.0)
        return server

    def channel(self, address: str, **options: Any) -> Channel:
        channel = Channel(address, **options)
        self._stack.callback(channel.close)
        return channel
