"""A gRPC server: carries bytes and knows nothing of what they mean.

One call is one connection of a stream; `streams` says how one takes another's place.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, final

import grpc

from poseidon_tf.errors import ConfigError, PoseidonError, ProtocolError
from poseidon_tf.transport import admission, credentials, listening
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.base import Receiver, shortened
from poseidon_tf.transport.carriers import WANTED, Accepted
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.grpc_options import RESUMES, STREAM_ID, options_of
from poseidon_tf.transport.lane_port import LanePort
from poseidon_tf.transport.streams import AcceptedStream, Stream

# Of a status. gRPC takes 8 KiB of metadata, in which a character may be twelve.
_REASON_CHARS = 500
_MAX_STREAM_ID = 64
_log = logging.getLogger("poseidon_tf")
_ENDING_S = 5.0  # For what is told to end, and has nothing to wait for.


@final
class Server:
    """A gRPC server on one address.

    Args:
      address: "host:port"; port 0 lets the system choose. A host that is not one of this
        machine's (a name that a load balancer owns), or that other machines look up to another
        address, listens on all interfaces.
      max_streams: the streams that the cluster needs; each holds a thread for its life. One more
        is refused with a message instead of waiting for ever.
      ports: first and last port to try where the port is 0.
      spared: one of them that is somebody else's; 0 for none.
      settings: how its connections behave.
      patience_s: how long to try where the port is in use: by a process that is ending, perhaps.

    Attributes:
      lanes: where lanes come in; None if everything goes through gRPC.

    Raises:
      ConfigError: the port is in use.
    """

    # Whoever has a stream may also ask something, and so may a few whose stream is refused. A
    # stream that is taken up again has two calls until the first has left.
    _CALLS_PER_STREAM = 4
    _SPARE_CALLS = 4

    def __init__(
        self,
        address: str,
        *,
        max_streams: int,
        ports: tuple[int, int] | None = None,
        spared: int = 0,
        settings: ConnectionSettings = ConnectionSettings(),
        patience_s: float = 0.0,
    ) -> None:
        self._max_streams = max_streams
        self._settings = settings
        self._resume_s = settings.resume_s
        self._streams: dict[tuple[str, str], AcceptedStream] = {}  # By method and number.
        self._readers: dict[tuple[str, str], threading.Thread] = {}  # The same.
        self._lock = threading.Lock()
        self._server = grpc.server(
            _DaemonThreads(),
            options=options_of(settings, is_server=True),
            interceptors=(admission.Admission(settings.security),),
            maximum_concurrent_rpcs=(1 + self._CALLS_PER_STREAM) * max_streams + self._SPARE_CALLS,
        )
        self._has_started = False
        self._credentials = credentials.server_credentials(settings.security)
        asked = Address.parse(address, lowest_port=0)
        self.address = str(asked.with_port(self._bind(asked, ports, spared, patience_s)))
        self.lanes = self._lane_port(asked, spared) if settings.has_lanes else None

    def _bind(
        self, asked: Address, ports: tuple[int, int] | None, spared: int, patience_s: float
    ) -> int:
        where = _listening_for(asked)
        candidates = [asked.port]
        if ports and not asked.port:
            candidates = [port for port in range(ports[0], ports[1] + 1) if port != spared]
        deadline_s = time.monotonic() + patience_s
        while True:
            reasons = []
            for candidate in candidates:
                place = where.with_port(candidate)
                reason = listening.refusal(place)
                reasons.append(reason)
                with contextlib.suppress(RuntimeError):
                    if reason is None and (
                        bound := credentials.add_port(self._server, str(place), self._credentials)
                    ):
                        return bound
            can_change = any(listening.is_taken(reason) for reason in reasons)
            if not can_change or time.monotonic() >= deadline_s:
                break
            time.sleep(0.1)  # Nothing tells when another program gives its port back.
        if ports and not asked.port:
            raise ConfigError(f"no free port on {where.host} between {ports[0]} and {ports[1]}")
        if can_change:
            raise ConfigError(
                f"cannot listen on {where}: the port is in use, by another program or by "
                "another member of this cluster; choose a free one in TF_CONFIG or "
                "POSEIDON_COORDINATOR"
            )
        raise ConfigError(
            f"cannot listen on {where}: {reasons[0]}; give this task an address and a port that "
            "this machine lets it use, in TF_CONFIG or POSEIDON_COORDINATOR"
        )

    def _lane_port(self, asked: Address, spared: int) -> LanePort | None:
        ports = self._settings.lane_ports
        candidates = [0]  # The system's choice.
        if ports:
            candidates = [port for port in range(ports[0], ports[1] + 1) if port != spared]
        try:
            return LanePort(_listening_for(asked).host, candidates)
        except OSError as failure:
            _log.warning(
                "%s has no port for lanes (%s): tensors go through gRPC", self.address, failure
            )
            return None

    def add_unary(self, method: str, answer: Callable[[bytes], bytes]) -> None:
        """Serve `method`; a PoseidonError that `answer` raises is the caller's ProtocolError."""

        def handler(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return answer(request)
            except (PoseidonError, ValueError) as failure:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, _short(str(failure)))
                raise  # abort() raises; this line is for readers and type checkers.

        self._add(method, grpc.unary_unary_rpc_method_handler(handler))

    def add_stream(
        self, method: str, accept: Callable[[Stream], Receiver], *, with_lanes: bool = False
    ) -> None:
        """Serve streams of `method`; `accept` names the receiver, or raises to refuse one.

        Args:
          with_lanes: whoever opens one may have a lane for it, if the settings say so.
        """

        def handler(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            metadata = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
            key = (method, metadata.get(STREAM_ID, ""))
            with self._lock:  # No second call of a stream may come in before it is known.
                stream = self._streams.get(key)
                is_new = stream is None
                if stream is None:
                    stream, receiver = self._accept(key, metadata, context, accept)
            carrier = Accepted(
                requests,
                context,
                is_asked=with_lanes and WANTED in metadata,
                port=self.lanes,
                traffic=stream.traffic,
                keepalive_s=self._settings.keepalive_s,
            )
            number = stream.attach(carrier.incoming(), carrier.cut)
            if is_new:
                live = functools.partial(self._live, key, stream, receiver)
                reader = threading.Thread(target=live, name="poseidon-read", daemon=True)
                with self._lock:
                    self._readers[key] = reader
                reader.start()

            def hung_up() -> None:
                carrier.hung_up()
                stream.detach(number)

            if not context.add_callback(hung_up):
                hung_up()
            yield from carrier.responses(stream.write(number))
            if stream.refusal is not None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, _short(stream.refusal))

        self._add(method, grpc.stream_stream_rpc_method_handler(handler))

    def _accept(
        self,
        key: tuple[str, str],
        metadata: dict[str, str],
        context: grpc.ServicerContext,
        accept: Callable[[Stream], Receiver],
    ) -> tuple[AcceptedStream, Receiver]:
        """A stream that begins, and who hears it; ends the call if it cannot. Holds the lock."""
        if not 0 < len(key[1]) <= _MAX_STREAM_ID:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a stream without a number")
        if RESUMES in metadata:
            # It took too long: its end has been told to whoever waited.
            context.abort(grpc.StatusCode.NOT_FOUND, "the stream has ended there")
        if sum(not stream.is_closed for stream in self._streams.values()) >= self._max_streams:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"a stream too many: this cluster needs {self._max_streams} here",
            )
        stream = AcceptedStream(context.peer(), metadata, resume_s=self._resume_s)
        try:
            receiver = accept(stream)
        except (ProtocolError, ConfigError) as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, _short(str(refusal)))
            raise  # abort() raises; this line is for readers and type checkers.
        self._streams[key] = stream
        return stream, receiver

    def _live(self, key: tuple[str, str], stream: AcceptedStream, receiver: Receiver) -> None:
        try:
            stream.live(receiver)
        finally:
            with self._lock:
                del self._streams[key], self._readers[key]

    def _add(self, method: str, handler: grpc.RpcMethodHandler) -> None:
        service, name = method.strip("/").rsplit("/", 1)
        generic = grpc.method_handlers_generic_handler(service, {name: handler})
        self._server.add_generic_rpc_handlers((generic,))

    def start(self) -> None:
        """Begin to serve."""
        self._has_started = True
        self._server.start()

    def resume_within(self, resume_s: float) -> None:
        """`ConnectionSettings.resume_s` of this server is another one from now on."""
        with self._lock:
            self._resume_s = resume_s
            streams = list(self._streams.values())
        for stream in streams:
            stream.resume_within(resume_s)

    def stop(self, *, grace_s: float = 1.0) -> None:
        """Let open streams end for `grace_s` seconds, cut the rest, give the port back."""
        if not self._has_started:  # gRPC never gives back what it has not served on.
            grace_s = 0.0
            self.start()
        if self.lanes is not None:
            self.lanes.close()
        stopped = self._server.stop(grace_s)
        self.resume_within(0.0)
        with self._lock:
            readers = list(self._readers.values())
        stopped.wait(grace_s + _ENDING_S)
        for reader in readers:
            if reader is not threading.current_thread():  # A receiver may stop its server.
                reader.join(_ENDING_S)


def _listening_for(asked: Address) -> Address:
    """Where to listen so that others reach `asked`."""
    is_here = listening.is_own(asked.host) and not listening.is_reached_elsewhere(asked.host)
    return asked if is_here else Address(listening.ALL_INTERFACES, asked.port)


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


def _short(reason: str) -> str:
    """A reason that fits into a status: one that gRPC takes for too long arrives as another one."""
    return shortened(reason, most_chars=_REASON_CHARS)
