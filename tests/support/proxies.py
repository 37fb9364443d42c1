"""A TCP proxy that resets connections in the middle of whatever they carry."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import struct
import threading
from collections.abc import Iterable, Iterator

_READ_BYTES = 64 * 1024
_SEND_S = 20.0  # Far longer than anyone here may keep from reading.
_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and drops what was not sent.
# What a connection is told to do.
_RESET, _DEAFEN, _HOLD, _LET_GO = b"r", b"d", b"h", b"g"


class Proxy:
    """Listens on an address of its own and forwards to `target`; a context manager.

    Args:
      target: "host:port".
      reset_after: bytes, both directions together, after which each connection is reset; one
        number per connection, in order. Connections after the last one are left alone.
      silent_s: how long a new connection carries nothing.
      buffer_bytes: of what comes for the target and is not read, so much the kernel holds; it may
        be twice as much. By default megabytes.

    Attributes:
      address: to connect to instead of `target`.
      target: where the next connections go.
      num_connections, num_resets: so far.
      num_bytes: both directions together, so far.
    """

    def __init__(
        self,
        target: str,
        reset_after: Iterable[int] = (),
        *,
        silent_s: float = 0.0,
        buffer_bytes: int | None = None,
    ) -> None:
        self.target = target
        self._silent_s = silent_s
        self._is_leaving = threading.Event()
        self._limits: Iterator[int | None] = itertools.chain(reset_after, itertools.repeat(None))
        self._listener = socket.create_server(("127.0.0.1", 0))
        if buffer_bytes is not None:  # Connections have it from their listener.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_connections = self.num_resets = self.num_bytes = 0
        self._is_hostile = False
        self._asked = 0  # Resets; one that is asked for meanwhile is not missed.
        self._lock = threading.Lock()
        self._wakers: set[socket.socket] = set()  # One per connection; it does what a byte says.
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # Nobody listens already.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._is_leaving.set()
        self.reset()
        for thread in self._threads:
            thread.join(_SEND_S)

    def reset(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            self._asked += 1
        self._tell(_RESET)

    def deafen(self) -> None:
        """Let nothing that the target says through any more, on the connections open now.

        Nor is it read: the target's host has it still, and waits.
        """
        self._tell(_DEAFEN)

    def hold(self) -> None:
        """Take nothing of what is sent to the target, on the connections open now.

        From when this returns; whoever sends can send no more than buffers hold.
        """
        for waker in self._tell(_HOLD):
            assert waker.recv(1) == _HOLD

    def let_go(self) -> None:
        """Go on where `hold` began."""
        self._tell(_LET_GO)

    def turn_away(self) -> None:
        """Reset every connection, and from now on every new one at once."""
        self._is_hostile = True
        self.reset()

    def stop_listening(self) -> None:
        """Reset every connection; new ones are refused."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self.reset()

    def _tell(self, what: bytes) -> list[socket.socket]:
        """Say `what` to every connection; returns those that are told."""
        with self._lock:
            wakers = list(self._wakers)
        told = []
        for waker in wakers:
            with contextlib.suppress(OSError):  # It has just ended.
                waker.send(what)
                told.append(waker)
        return told

    def _run(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # Closed.
            while True:
                client, _ = self._listener.accept()
                asked = self._asked
                self.num_connections += 1
                if self._is_hostile:
                    _reset(client)
                    continue
                try:
                    server = socket.create_connection(_host_and_port(self.target))
                except OSError:
                    _reset(client)
                    continue
                self._run(self._forward, client, server, next(self._limits), asked)

    def _forward(
        self, client: socket.socket, server: socket.socket, limit: int | None, asked: int
    ) -> None:
        ours, waker = socket.socketpair()
        with self._lock:
            self._wakers.add(waker)
            if self._asked != asked:
                waker.send(_RESET)
        self._is_leaving.wait(self._silent_s)
        left = float("inf") if limit is None else limit
        peers = {client: server, server: client}
        is_reset = False
        with selectors.DefaultSelector() as selector:
            for each in (client, server, ours):
                selector.register(each, selectors.EVENT_READ)
            with contextlib.suppress(OSError):  # Either end has reset it.
                for each in peers:
                    each.settimeout(_SEND_S)
                while peers and not is_reset:
                    for key, _ in selector.select():
                        if key.fileobj is ours:
                            what = ours.recv(1)
                            if is_reset := what == _RESET:
                                break
                            if what == _DEAFEN:
                                selector.unregister(server)
                            elif what == _HOLD:
                                selector.unregister(client)
                                ours.send(_HOLD)
                            else:
                                selector.register(client, selectors.EVENT_READ)
                            continue
                        data = key.fileobj.recv(int(min(left, _READ_BYTES)))  # type: ignore[union-attr]
                        if not data:
                            peers.clear()
                            break
                        peers[key.fileobj].sendall(data)  # type: ignore[index]
                        left -= len(data)
                        with self._lock:
                            self.num_bytes += len(data)
                        if left <= 0:
                            is_reset = True
                            break
        with self._lock:
            self._wakers.discard(waker)
            self.num_resets += is_reset
        for each in (client, server):
            _reset(each) if is_reset else each.close()
        ours.close()
        waker.close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    connection.close()
