"""Moves messages over gRPC: servers, channels and long-lived bidirectional streams.

The only file that imports grpc. It carries bytes and knows nothing of what they mean. Every
stream has one thread that reads and one that writes; a writer takes its messages from an
`Outgoing`, so that whoever sends may coalesce or hold back without a queue of finished messages.

Settings, with their reasons:
- a message longer than MAX_MESSAGE_BYTES is refused by gRPC before memory is taken for it;
- SO_REUSEPORT is off, or two servers could share one port and split its traffic unnoticed;
- the HTTP proxy of the environment is not used: peers talk to each other directly;
- keepalive finds a peer that vanished without closing its connection; gRPC answers it without
  the interpreter's lock, so a worker that computes for a minute is not taken for dead;
- every channel has its own connections: gRPC would let equal channels share one.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any, final

import grpc

from poseidon_tf.errors import ConfigError, PeerLost, PoseidonError, ProtocolError
from poseidon_tf.transport.base import MAX_MESSAGE_BYTES, MessageQueue, Outgoing, Receiver, Traffic
from poseidon_tf.transport.connections import ConnectionSettings

# gRPC's five bytes before each message: a flag and the length.
GRPC_PREFIX_BYTES = 5
_READY = "/poseidon_tf.Ready/Ready"  # Nobody serves it, and every server says so.
_NO_ANSWER = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
)


def _options(settings: ConnectionSettings) -> list[tuple[str, Any]]:
    keepalive_s = settings.keepalive_s
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000 * 2 / 3)),
        ("grpc.keepalive_timeout_ms", int(keepalive_s * 1000 / 3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


@final
class Stream:
    """One end of a bidirectional stream of messages. Every method may be called by any thread."""

    def __init__(self, peer: str, metadata: Mapping[str, str], outgoing: Outgoing) -> None:
        self.peer = peer
        self.metadata = dict(metadata)
        self.traffic = Traffic()
        self.outgoing = outgoing
        self.refusal: str | None = None
        self._cancel: Callable[[], Any] | None = None
        self._ended = threading.Event()

    def send(self, message: bytes) -> None:
        """Queue `message`; never blocks, and does nothing once the stream is closed."""
        self.outgoing.put(message)

    def close(self) -> None:
        """Send what is queued, then nothing more."""
        self.outgoing.close()

    def abort(self, reason: str) -> None:
        """End the stream at once; on the server's side the peer is told `reason`."""
        self.refusal = reason
        self.outgoing.close()
        if self._cancel is not None:
            self._cancel()

    def wait_ended(self, *, timeout_s: float) -> bool:
        """Wait until the other side has ended the stream too; False at the deadline."""
        return self._ended.wait(timeout_s)

    def _messages(self) -> Iterator[bytes]:
        for message in self.outgoing:
            self.traffic.count_sent(len(message) + GRPC_PREFIX_BYTES)
            yield message

    def _deliver(self, messages: Iterator[bytes], receiver: Receiver) -> None:
        """Hand each message over in order, then say once how the stream ended."""
        error: Exception | None = None
        try:
            for message in messages:
                self.traffic.count_received(len(message) + GRPC_PREFIX_BYTES)
                receiver.on_message(message)
        except grpc.RpcError as failure:
            code = failure.code() if hasattr(failure, "code") else None
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
                error = ProtocolError(f"{self.peer} refused: {failure.details()}")
            else:
                detail = failure.details() if hasattr(failure, "details") else ""
                error = PeerLost(f"connection to {self.peer} lost" + (f": {detail}" * bool(detail)))
        except Exception as failure:  # The receiver's own: it learns of it in on_closed.
            error = failure
            self.refusal = str(failure)
        try:
            # First: when the peer hears of a refusal, the stream's place is free again.
            receiver.on_closed(error)
        finally:
            if self.refusal is not None:
                self.abort(self.refusal)
            self.outgoing.close()
            self._ended.set()


@final
class Server:
    """A gRPC server on one address.

    Args:
      address: "host:port"; port 0 lets the system choose. A host that is not one of this
        machine's (a name that a load balancer owns) listens on all interfaces.
      max_streams: the streams that the cluster needs; each holds a thread for its life. One more
        is refused with a message instead of waiting for ever.
      ports: first and last port to try where the port is 0.
      settings: how its connections behave.

    Raises:
      ConfigError: the port is in use.
    """

    # Whoever has a stream may also ask something, and so may a few whose stream is refused.
    _CALLS_PER_STREAM = 3
    _SPARE_CALLS = 4

    def __init__(
        self,
        address: str,
        *,
        max_streams: int,
        ports: tuple[int, int] | None = None,
        settings: ConnectionSettings = ConnectionSettings(),
    ) -> None:
        self._max_streams = max_streams
        self._open_streams = 0
        self._lock = threading.Lock()
        self._server = grpc.server(
            _DaemonThreads(),
            options=_options(settings),
            maximum_concurrent_rpcs=(1 + self._CALLS_PER_STREAM) * max_streams + self._SPARE_CALLS,
        )
        host, _, port = address.rpartition(":")
        listen = host if _is_local(host) else "0.0.0.0"
        self.address = f"{host}:{self._bind(listen, int(port), ports)}"

    def _bind(self, host: str, port: int, ports: tuple[int, int] | None) -> int:
        candidates = range(ports[0], ports[1] + 1) if ports and port == 0 else [port]
        for candidate in candidates:
            with contextlib.suppress(RuntimeError):
                bound: int = self._server.add_insecure_port(f"{host}:{candidate}")
                if bound:
                    return bound
        if ports and port == 0:
            raise ConfigError(f"no free port on {host} between {ports[0]} and {ports[1]}")
        raise ConfigError(
            f"cannot listen on {host}:{port}: the port is in use, by another program or by "
            "another member of this cluster; choose a free one in TF_CONFIG"
        )

    def add_unary(self, method: str, answer: Callable[[bytes], bytes]) -> None:
        """Serve `method`; a PoseidonError that `answer` raises is the caller's ProtocolError."""

        def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return answer(request)
            except (PoseidonError, ValueError) as failure:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(failure))
                raise  # abort() raises; this line is for readers and type checkers.

        self._add(method, grpc.unary_unary_rpc_method_handler(handler))

    def add_stream(self, method: str, accept: Callable[[Stream], Receiver]) -> None:
        """Serve streams of `method`; `accept` names the receiver, or raises to refuse one."""

        def handler(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._lock:
                full = self._open_streams >= self._max_streams
                self._open_streams += not full
            if full:
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"a stream too many: this cluster needs {self._max_streams} here",
                )
            try:
                yield from self._serve_stream(requests, context, accept)
            finally:
                with self._lock:
                    self._open_streams -= 1

        self._add(method, grpc.stream_stream_rpc_method_handler(handler))

    def _serve_stream(
        self,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        accept: Callable[[Stream], Receiver],
    ) -> Iterator[bytes]:
        metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        stream = Stream(context.peer(), metadata, MessageQueue())
        try:
            receiver = accept(stream)
        except (ProtocolError, ConfigError) as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
            return
        context.add_callback(stream.outgoing.close)
        reader = threading.Thread(
            target=stream._deliver, args=(requests, receiver), name="poseidon-read", daemon=True
        )
        reader.start()
        yield from stream._messages()
        if stream.refusal is not None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, stream.refusal)

    def _add(self, method: str, handler: grpc.RpcMethodHandler) -> None:
        service, name = method.strip("/").rsplit("/", 1)
        generic = grpc.method_handlers_generic_handler(service, {name: handler})
        self._server.add_generic_rpc_handlers((generic,))

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()

    def stop(self, *, grace_s: float = 1.0) -> None:
        """Let open streams end for `grace_s` seconds, cut the rest, give the port back."""
        self._server.stop(grace_s).wait(grace_s + 5.0)


@final
class _DaemonThreads(Executor):
    """A thread per call, as many as `maximum_concurrent_rpcs` lets in.

    The standard library's pool is joined before the interpreter tells anyone that the main thread
    has ended; a stream's thread would keep it waiting for a goodbye that could never be said.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as failure:  # gRPC's to look at, as with any pool.
                future.set_exception(failure)

        threading.Thread(target=run, name="poseidon-serve", daemon=True).start()
        return future


@final
class Channel:
    """Connections to one address; each channel has its own."""

    def __init__(
        self, address: str, *, settings: ConnectionSettings = ConnectionSettings()
    ) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=_options(settings))

    def wait_ready(self, *, timeout_s: float) -> bool:
        """Wait until the other side answers; False at the deadline."""
        # Any answer will do. Whoever watches the channel's state instead leaves a thread of gRPC's
        # behind, which prints a traceback when the channel is closed soon after.
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            try:
                self._channel.unary_unary(_READY)(b"", timeout=left_s, wait_for_ready=True)
            except grpc.RpcError as failure:
                if failure.code() is grpc.StatusCode.UNAVAILABLE and left_s > 0.0:
                    continue  # The connection broke before there was an answer.
                return failure.code() not in _NO_ANSWER
            return True

    def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """One question, one answer.

        Raises:
          ProtocolError: the other side refused the request.
          PeerLost: it did not answer within `timeout_s` seconds.
        """
        try:
            answer: bytes = self._channel.unary_unary(method)(
                request, timeout=timeout_s, wait_for_ready=True
            )
            return answer
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ProtocolError(f"{self.address} refused: {failure.details()}") from failure
            raise PeerLost(
                f"{method} to {self.address}: no answer in {timeout_s:g} s ({failure.details()})"
            ) from failure

    def open_stream(
        self,
        method: str,
        receiver: Receiver,
        *,
        metadata: Mapping[str, str] | None = None,
        outgoing: Outgoing | None = None,
    ) -> Stream:
        """Open a stream; `receiver` hears of every message and of the end."""
        stream = Stream(self.address, metadata or {}, outgoing or MessageQueue())
        call = self._channel.stream_stream(method)(
            stream._messages(), metadata=tuple(stream.metadata.items()), wait_for_ready=True
        )
        stream._cancel = call.cancel
        threading.Thread(
            target=stream._deliver, args=(call, receiver), name="poseidon-read", daemon=True
        ).start()
        return stream

    def close(self) -> None:
        """Close the connections; open streams end with an error."""
        self._channel.close()


def _is_local(host: str) -> bool:
    """Whether this machine can listen on `host`."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((bare, 0))
        except socket.gaierror:
            return False
        except OSError as failure:
            return failure.errno != errno.EADDRNOTAVAIL
    return True
