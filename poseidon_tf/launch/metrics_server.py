"""Serves the status of a job to Prometheus, over HTTP.

What is served is made when it is asked for, of what the coordinator knows; nothing is kept here.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import http.server
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, final

from poseidon_tf.coordinator.status import Status
from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.metric_families import families
from poseidon_tf.transport import listening
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.security import Security

_log = logging.getLogger("poseidon_tf")
_MOST_CLIENTS = 32
_CLIENT_S = 10.0  # For a client to send its question and to take the answer, all in all.


@final
class MetricsServer:
    """An HTTP server on `host` and `port`, with threads of its own until `close`.

    Args:
      status: how the job is doing.
      security: with TLS it speaks HTTPS, and with a token whoever asks has to show it:
        ``Authorization: Bearer <token>``.

    Raises:
      ConfigError: prometheus_client is missing, or nobody may listen there.
    """

    def __init__(
        self, host: str, port: int, *, status: Callable[[], Status], security: Security
    ) -> None:
        answer = _answerer(status)
        handler = functools.partial(_Handler, answer, security.token)
        where = Address(host, port)
        try:
            self._server = _Server(where, handler)
        except OSError as failure:
            raise ConfigError(
                f"metrics_port: cannot listen on {where} ({failure}); give a free port"
            ) from failure
        if security.is_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(str(security.certificate), str(security.key))
            if security.mutual:
                context.load_verify_locations(str(security.ca))
                context.verify_mode = ssl.CERT_REQUIRED
            # The handshake is the client's thread's, not that of the next one's.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="poseidon-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not `http.server`'s own, which looks up its name and may wait for that."""

    allow_reuse_address = True

    def __init__(self, where: Address, handler: Any) -> None:
        is_here = listening.is_own(where.host) and not listening.is_reached_elsewhere(where.host)
        host = where.host if is_here else listening.ALL_INTERFACES
        found = socket.getaddrinfo(host, where.port, type=socket.SOCK_STREAM)
        self.address_family, *_, address = found[0]
        self._lock = threading.Lock()
        self._clients: dict[threading.Thread, tuple[socket.socket, float]] = {}  # And until when.
        super().__init__(address, handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each client, up to a limit; `hang_up` ends them."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="poseidon-metrics-client",
            daemon=True,
        )
        with self._lock:
            is_too_many = len(self._clients) >= _MOST_CLIENTS
            if not is_too_many:
                self._clients[thread] = request, time.monotonic() + _CLIENT_S
        if is_too_many:
            self.shutdown_request(request)
        else:
            thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._clients[threading.current_thread()]

    def service_actions(self) -> None:
        """Hang up on who takes too long, byte by byte; called twice a second."""
        now_s = time.monotonic()
        with self._lock:
            late = [request for request, until_s in self._clients.values() if until_s <= now_s]
        for request in late:
            _hang_up(request)

    def hang_up(self) -> None:
        """End every client that is still there."""
        with self._lock:
            clients = dict(self._clients)
        for thread, (request, _) in clients.items():
            _hang_up(request)
            thread.join(_CLIENT_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up, or cannot shake hands, is its own trouble."""
        _log.debug("a client of the metrics (%s) failed", client_address, exc_info=True)


def _hang_up(client: socket.socket) -> None:
    with contextlib.suppress(OSError):  # It has hung up itself.
        client.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _CLIENT_S
    protocol_version = "HTTP/1.0"

    def __init__(
        self, answer: Callable[[str], tuple[bytes, str]], token: str | None, *args: Any
    ) -> None:
        self._answer, self._token = answer, token
        super().__init__(*args)

    def do_GET(self) -> None:
        if self._token is not None and not hmac.compare_digest(
            self.headers.get("Authorization", "").encode(), f"Bearer {self._token}".encode()
        ):
            self.send_error(HTTPStatus.UNAUTHORIZED, "the job's token is needed")
            return
        if self.path.partition("?")[0] not in ("/", "/metrics"):
            self.send_error(HTTPStatus.NOT_FOUND, "see /metrics")
            return
        body, kind = self._answer(self.headers.get("Accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Questions come every few seconds, and are no news."""


def _answerer(status: Callable[[], Status]) -> Callable[[str], tuple[bytes, str]]:
    """From what a client accepts to the metrics as they are now, and their format."""
    try:
        from prometheus_client import CollectorRegistry, exposition
        from prometheus_client.registry import Collector
    except ImportError as failure:
        raise ConfigError(
            "metrics_port needs the package prometheus_client, which is not installed here; "
            "pip install 'poseidon_tf[metrics]' on rank 0, or leave metrics_port out"
        ) from failure

    class JobCollector(Collector):
        def collect(self) -> Iterator[Any]:
            return families(status())

        def describe(self) -> list[Any]:
            return []  # Nothing is looked at before it is asked for.

    registry = CollectorRegistry()
    registry.register(JobCollector())

    def answer(accepted: str) -> tuple[bytes, str]:
        encode, kind = exposition.choose_encoder(accepted)
        return encode(registry), kind

    return answer
