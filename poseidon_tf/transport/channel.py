"""A gRPC channel: calls, and streams that it opens."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import final

import grpc

from poseidon_tf.errors import PeerLost, ProtocolError, StartTimeout
from poseidon_tf.transport import admission, credentials, readiness
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.base import Outgoing, Receiver, Room
from poseidon_tf.transport.carriers import WANTED, Dialled
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.grpc_endings import is_broken
from poseidon_tf.transport.grpc_options import RESUMES, STREAM_ID, options_of
from poseidon_tf.transport.streams import Broken, DialledStream, Incoming, Stream
from poseidon_tf.wire.frames import Message

_log = logging.getLogger("poseidon_tf")
_PAUSE_S = 0.05  # Between two attempts of a call.


@final
class Channel:
    """Connections to one address, "host:port"; each channel has its own.

    Raises:
      ConfigError: that is no address, or a file of `settings` cannot be read.
    """

    def __init__(
        self, address: str, *, settings: ConnectionSettings = ConnectionSettings()
    ) -> None:
        self.address = str(Address.parse(address))
        self._settings = settings
        self._has_lanes = settings.has_lanes  # Until one could not be had.
        self._closed = threading.Event()
        self._security = settings.security
        self._shown = admission.shown(settings.security)
        options = options_of(settings, is_server=False)
        self._channel = credentials.open_channel(self.address, settings.security, options)
        self.unready_reason = ""  # Why the other side did not answer, as far as gRPC knows.

    def wait_ready(self, *, timeout_s: float, over: threading.Event | None = None) -> bool:
        """Wait until the other side answers; False at the deadline, or when this is closed.

        Args:
          over: ends the wait as the deadline does, within seconds.

        Raises:
          ConfigError: it answers that this process is of another job, or the two can make no
            connection: its certificate is wrong, or it does not speak TLS.
        """
        reason = readiness.wait_ready(
            self._channel,
            self.address,
            self._security,
            timeout_s=timeout_s,
            ended=[self._closed, *([] if over is None else [over])],
        )
        self.unready_reason = reason or ""
        return reason is None

    def reach(self, who: str, *, timeout_s: float, over: threading.Event | None = None) -> None:
        """Wait until the other side, which is `who`, answers; see `wait_ready`.

        Raises:
          StartTimeout: it did not in `timeout_s` seconds; the text says what gRPC made of it.
          ConfigError: as for `wait_ready`.
        """
        if not self.wait_ready(timeout_s=timeout_s, over=over):
            raise StartTimeout(
                f"{who} at {self.address} cannot be reached in {timeout_s:g} s "
                f"({self.unready_reason or 'no answer'})"
            )

    def round_trip_s(
        self, who: str, *, timeout_s: float, over: threading.Event | None = None
    ) -> float:
        """How long the other side, which has answered before, takes to answer; see `reach`.

        Anyone answers at once: nobody has to have come to a certain place.
        """
        begun_s = time.perf_counter()
        self.reach(who, timeout_s=timeout_s, over=over)
        return time.perf_counter() - begun_s

    def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """One question, one answer; asked again when the connection breaks meanwhile.

        So the other side may hear it twice. Who is asked has been there before: if nobody listens
        there now, nobody is waited for.

        Raises:
          ProtocolError: the other side refused the request.
          ConfigError: as for `wait_ready`.
          PeerLost: it did not answer within `timeout_s` seconds, or its connection broke and could
            not be made again.
        """
        deadline_s = time.monotonic() + timeout_s
        has_broken = False
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            try:
                answer: bytes = self._channel.unary_unary(method)(
                    request,
                    timeout=left_s,
                    metadata=self._shown,
                )
                return answer
            except grpc.RpcError as failure:
                if failure.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    raise ProtocolError(f"{self.address} refused: {failure.details()}") from failure
                if failure.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise admission.stranger(self.address) from failure
                if not has_broken:
                    deadline_s = min(deadline_s, time.monotonic() + self._settings.resume_s)
                has_broken = True
                if (
                    not is_broken(failure)
                    or time.monotonic() >= deadline_s
                    or self._closed.wait(_PAUSE_S)
                ):
                    raise PeerLost(
                        f"{method} to {self.address}: no answer in {timeout_s:g} s "
                        f"({failure.details()})"
                    ) from failure

    def open_stream(
        self,
        method: str,
        receiver: Receiver,
        *,
        metadata: Mapping[str, str] | None = None,
        outgoing: Outgoing | None = None,
        with_lane: bool = False,
        room: Room = lambda head, num_bytes: None,
    ) -> Stream:
        """Open a stream; `receiver` hears of every message and of the end.

        Args:
          with_lane: its messages may go over a lane, if the settings and the other side say so.
          room: asked where payloads that come over a lane belong.
        """
        stream_id = secrets.token_hex(16)

        def dial(
            stream: DialledStream, messages: Iterator[Message], is_first: bool
        ) -> tuple[Incoming, Callable[[], object]]:
            about = {STREAM_ID: stream_id} | ({RESUMES: "1"} if stream.is_known else {})
            carrier = Dialled(
                wants_lane=with_lane and self._has_lanes,
                host=Address.parse(self.address).host,
                peer=self.address,
                traffic=stream.traffic,
                keepalive_s=self._settings.keepalive_s,
                room=room,
                insists=self._settings.protocol == "grpc+tcp",
                on_no_lane=self._go_without_lanes,
            )
            if carrier.wants_lane:
                about[WANTED] = "1"
            try:
                # Whoever was there and is not any more will not be waited for.
                call = self._channel.stream_stream(method)(
                    carrier.requests(messages),
                    metadata=(*(stream.metadata | about).items(), *self._shown),
                    wait_for_ready=is_first,
                )
            except ValueError as failure:  # That is how gRPC says that the channel is closed.
                raise Broken(str(failure), is_final=True) from failure
            return carrier.incoming(call), call.cancel

        stream = DialledStream(
            self.address, metadata or {}, outgoing, resume_s=self._settings.resume_s, dial=dial
        )
        threading.Thread(
            target=stream.live, args=(receiver,), name="poseidon-read", daemon=True
        ).start()
        return stream

    def _go_without_lanes(self, reason: str) -> None:
        if self._has_lanes:
            self._has_lanes = False
            _log.warning(
                "no lane to %s: %s; its tensors go through gRPC, which takes more CPU",
                self.address,
                reason,
            )

    def close(self) -> None:
        """Close the connections; open streams end with an error."""
        self._closed.set()
        self._channel.close()
