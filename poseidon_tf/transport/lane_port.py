"""Where lanes are connected to: a port, the words that are expected there, and one thread.

Rule 1: of a stranger nothing is kept but as many bytes as a word has.
Rule 2: who has not said a word that is expected is cut off after `PATIENCE_S`. There are at most
        `MAX_STRANGERS` of them: for one more, the one who came first is cut off.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import final

from poseidon_tf.transport import listening
from poseidon_tf.transport.lanes import PATIENCE_S, WELCOME, WORD_BYTES

MAX_STRANGERS = 64


@final
class Offer:
    """A lane that a call was offered, until somebody comes with its word.

    Attributes:
      place: what the call is told: the port and the word, as text.
    """

    def __init__(self, port: int) -> None:
        self.word = secrets.token_bytes(WORD_BYTES)
        self.place = f"{port}:{self.word.hex()}"
        self._changed = threading.Condition()
        self._connection: socket.socket | None = None
        self._is_over = False

    def bring(self, connection: socket.socket) -> None:
        """Somebody has said the word on `connection`."""
        with self._changed:
            if self._is_over:
                connection.close()
                return
            self._connection = connection
            self._changed.notify_all()

    def wait(self) -> socket.socket | None:
        """The connection; None if nobody comes in `PATIENCE_S`."""
        with self._changed:
            self._changed.wait_for(lambda: self._connection or self._is_over, PATIENCE_S)
            connection, self._connection, self._is_over = self._connection, None, True
            return connection

    def withdraw(self) -> None:
        """Nobody is waited for any more."""
        with self._changed:
            self._is_over = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._changed.notify_all()


@final
class LanePort:
    """Listens for the lanes of one server.

    Args:
      host: as the server's.
      ports: to try, in order; 0 is the system's choice.

    Raises:
      OSError: there is no port to be had.
    """

    def __init__(self, host: str, ports: Iterable[int] = (0,)) -> None:
        self._listener = _listen(host, ports)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._offers: dict[bytes, Offer] = {}
        self._strangers: dict[socket.socket, _Stranger] = {}  # In the order in which they came.
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ, self._let_in)
        self._selector.register(self._ear, selectors.EVENT_READ, self._end)
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="poseidon-lanes", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def offer(self) -> Iterator[Offer]:
        """A lane that may be taken, once, within."""
        offer = Offer(self.port)
        with self._lock:
            self._offers[offer.word] = offer
        try:
            yield offer
        finally:
            with self._lock:
                self._offers.pop(offer.word, None)
            offer.withdraw()

    def close(self) -> None:
        """Listen no more; lanes that were taken go on. May be called again."""
        with self._lock:
            if self._mouth.fileno() != -1:
                with self._mouth:
                    self._mouth.send(b"end")  # Not its end alone: a fork would keep it open.
        self._thread.join()

    def _serve(self) -> None:
        while not self._is_closed:
            now_s = time.monotonic()
            while self._strangers and self._first().until_s <= now_s:
                self._cut_off(self._first())
            wait_s = self._first().until_s - now_s if self._strangers else None
            for key, _ in self._selector.select(wait_s):
                key.data()

    def _end(self) -> None:
        self._is_closed = True
        while self._strangers:
            self._cut_off(self._first())
        self._selector.close()
        self._listener.close()
        self._ear.close()

    def _first(self) -> _Stranger:
        return next(iter(self._strangers.values()))

    def _let_in(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # Whoever it was has gone again.
            return
        connection.setblocking(False)
        if len(self._strangers) == MAX_STRANGERS:
            self._cut_off(self._first())
        stranger = _Stranger(connection, time.monotonic() + PATIENCE_S)
        self._strangers[connection] = stranger
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(stranger))

    def _hear(self, stranger: _Stranger) -> None:
        if stranger.connection not in self._strangers:
            return  # Cut off since the selector looked.
        if not stranger.listen():
            self._cut_off(stranger)
        elif len(stranger.said) == WORD_BYTES:
            with self._lock:
                offer = self._offers.pop(stranger.said, None)
            if offer is None:
                self._cut_off(stranger)
                return
            self._forget(stranger)
            try:
                stranger.connection.send(WELCOME)  # Fits into the buffer of any new connection.
            except OSError:
                stranger.connection.close()
            else:
                offer.bring(stranger.connection)

    def _cut_off(self, stranger: _Stranger) -> None:
        self._forget(stranger)
        stranger.connection.close()

    def _forget(self, stranger: _Stranger) -> None:
        del self._strangers[stranger.connection]
        self._selector.unregister(stranger.connection)


@final
class _Stranger:
    """Somebody who has connected and not said a word that is expected."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self.connection, self.until_s = connection, until_s
        self.said = b""

    def listen(self) -> bool:
        """Hear what there is of the word; False if nothing more will come."""
        try:
            heard = self.connection.recv(WORD_BYTES - len(self.said))
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.said += heard
        return bool(heard)


def _listen(host: str, ports: Iterable[int]) -> socket.socket:
    if host == listening.ALL_INTERFACES and socket.has_dualstack_ipv6():
        places = [(socket.AF_INET6, "::", True)]
    else:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        places = [(family, str(where[0]), False) for family, _, _, _, where in found]
    failure = OSError(f"no port on {host}")
    for port in ports:
        for family, where, dualstack in places:
            try:
                return socket.create_server(
                    (where, port), family=family, backlog=MAX_STRANGERS, dualstack_ipv6=dualstack
                )
            except OSError as reason:
                failure = reason
    raise failure
