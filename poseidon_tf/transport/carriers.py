"""How one connection of a stream carries its messages: in its gRPC call, or in a lane beside it.

Who dials asks for a lane; whoever answers offers one, or none. The one who dials then says in the
call whether it has come: from there both ends send and read either in the call or in the lane. The
call stays open beside the lane: it is what is asked whether the other end is alive, and it says how
a stream was refused. If one of the two breaks, the connection has broken.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import final

import grpc

from poseidon_tf.errors import ConfigError, ProtocolError
from poseidon_tf.transport import lanes
from poseidon_tf.transport.base import GRPC_PREFIX_BYTES, Room, Traffic
from poseidon_tf.transport.grpc_endings import incoming
from poseidon_tf.transport.lane_port import LanePort
from poseidon_tf.transport.lanes import Lane
from poseidon_tf.transport.streams import Broken, Incoming
from poseidon_tf.wire.frames import Message, Segments

# Metadata: of a call that wants a lane; and of the answer, its place, or nothing.
WANTED, OFFERED = "poseidon-lane-wanted", "poseidon-lane"
# Whether who dials has come to the lane.
_HERE, _NOT_HERE = b"\x00lane", b"\x00no lane"
_STATUS_S = 1.0  # For a call to end when its lane has.


@final
class Dialled:
    """The end that dials.

    Args:
      wants_lane: False: everything goes in the call.
      host: where the lane is.
      room: see `Lane`.
      insists: whether having no lane is an error.
      on_no_lane: told once a lane could not be had, and why.
    """

    def __init__(
        self,
        *,
        wants_lane: bool,
        host: str,
        peer: str,
        traffic: Traffic,
        keepalive_s: float,
        room: Room,
        insists: bool,
        on_no_lane: Callable[[str], None],
    ) -> None:
        self.wants_lane = wants_lane
        self._host, self._peer = host, peer
        self._traffic, self._keepalive_s = traffic, keepalive_s
        self._room, self._insists, self._on_no_lane = room, insists, on_no_lane
        self._choice = _Choice()
        self._is_offered = False

    def requests(self, messages: Iterable[Message]) -> Iterator[bytes]:
        """What the call sends of `messages`."""
        if not self.wants_lane:
            return _through_call(messages, self._traffic)
        return self._by_choice(messages)

    def _by_choice(self, messages: Iterable[Message]) -> Iterator[bytes]:
        lane = self._choice.wait()
        if self._is_offered:
            yield from _through_call([_NOT_HERE if lane is None else _HERE], self._traffic)
        yield from _through_call(messages, self._traffic) if lane is None else _send(lane, messages)

    def incoming(self, call: grpc.Call) -> Incoming:
        """What comes over this connection; raises `Broken`."""
        if not self.wants_lane:
            yield from _counted(incoming(call, self._peer), self._traffic)
            return
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            self._choice.cut()

        if not call.add_callback(end):
            end()
        try:
            lane = self._open(call, is_over)
            self._choice.make(lane)
            if lane is None:
                yield from _counted(incoming(call, self._peer), self._traffic)
                return
            broken: Broken | None = None
            try:
                yield from lane.receive()
            except Broken as breakage:
                broken = breakage
            # The call knows better why. It ends at about the same time.
            if is_over.wait(_STATUS_S) and (broken is None or broken.refusal is None):
                yield from incoming(call, self._peer)
            if broken is not None:
                raise broken
        finally:
            self._choice.cut()
            call.cancel()

    def _open(self, call: grpc.Call, is_over: threading.Event) -> Lane | None:
        metadata = dict(call.initial_metadata() or ())  # Comes with whatever comes first.
        if not call.is_active():
            return None  # It was refused, and says so.
        reason = "it offers none"
        if OFFERED not in metadata and is_over.wait(_STATUS_S):
            raise Broken("it ended before it began")
        if place := str(metadata.get(OFFERED, "")):
            self._is_offered = True
            try:
                connection = lanes.connect(self._host, place)
            except OSError as failure:
                # If the call has ended too, the next connection may well get a lane.
                if self._traffic.has_lane or is_over.wait(_STATUS_S):
                    raise Broken(f"its lane broke: {failure}") from failure
                reason = f"its port {place.partition(':')[0]} cannot be reached ({failure})"
            else:
                return Lane(
                    connection,
                    traffic=self._traffic,
                    keepalive_s=self._keepalive_s,
                    room=self._room,
                )
        if self._insists:
            refusal = ConfigError(
                f"protocol='grpc+tcp', but there is no lane to {self._peer}: {reason}; open that "
                "port, choose it with ports=, or use protocol='auto' or 'grpc'"
            )
            raise Broken(str(refusal), refusal=refusal)
        self._traffic.has_lane = False
        self._on_no_lane(reason)
        return None


@final
class Accepted:
    """The end that is dialled.

    Args:
      is_asked: whether the other end wants a lane.
      port: where lanes come in; None: everything goes in the call.
      requests: of the call.
    """

    def __init__(
        self,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        *,
        is_asked: bool,
        port: LanePort | None,
        traffic: Traffic,
        keepalive_s: float,
    ) -> None:
        self._requests, self._context = requests, context
        self._is_asked, self._port = is_asked, port if is_asked else None
        self._traffic, self._keepalive_s = traffic, keepalive_s
        self._choice = _Choice()

    def cut(self) -> None:
        """End the connection."""
        self._choice.cut()
        self._context.cancel()

    def hung_up(self) -> None:
        """The call has ended."""
        self._choice.cut()

    def responses(self, messages: Iterable[Message]) -> Iterator[bytes]:
        """What the call answers of `messages`."""
        lane = None
        if self._port is not None:
            lane = self._choice.wait()
        elif self._is_asked:
            with contextlib.suppress(Broken):  # Who reads hears of it too.
                self._offer("")  # Here: after the first message it would be too late.
        return _through_call(messages, self._traffic) if lane is None else _send(lane, messages)

    def incoming(self) -> Incoming:
        """What comes over this connection; raises `Broken`."""
        peer = self._context.peer()
        words = incoming(self._requests, peer)
        if self._port is None:
            yield from _counted(words, self._traffic)
            return
        try:
            lane = self._taken(words)
            self._choice.make(lane)
            yield from _counted(words, self._traffic) if lane is None else lane.receive()
        finally:
            self._choice.cut()

    def _offer(self, place: str) -> None:
        try:
            self._context.send_initial_metadata(((OFFERED, place),))
        except grpc.RpcError as failure:
            raise Broken("it ended before it began") from failure

    def _taken(self, words: Iterator[bytes]) -> Lane | None:
        assert self._port is not None
        with self._port.offer() as offer:
            self._offer(offer.place)
            word = next(_counted(words, self._traffic), None)
            if word == _NOT_HERE:
                return None
            if word is None:
                raise Broken("it ended before it began")
            if word != _HERE:
                refusal = ProtocolError(
                    "a stream that does not say whether it has come to its lane"
                )
                raise Broken(str(refusal), refusal=refusal)
            if (connection := offer.wait()) is None:
                raise Broken("nobody came to its lane")
        return Lane(connection, traffic=self._traffic, keepalive_s=self._keepalive_s)


@final
class _Choice:
    """Whether a connection has a lane: made by the thread that reads, for the one that writes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_made = self._is_cut = False
        self._lane: Lane | None = None

    def make(self, lane: Lane | None) -> None:
        """Choose; a lane of a connection that was cut is cut."""
        with self._changed:
            self._is_made, self._lane = True, lane
            self._changed.notify_all()
            if self._is_cut and lane is not None:
                lane.cut()

    def wait(self) -> Lane | None:
        """The lane; None if everything goes in the call, or the connection was cut before."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_made or self._is_cut)
            return self._lane

    def cut(self) -> None:
        """End the lane, if there is one, and whoever waits for it."""
        with self._changed:
            self._is_cut = True
            if self._lane is not None:
                self._lane.cut()
            self._changed.notify_all()


def _through_call(messages: Iterable[Message], traffic: Traffic) -> Iterator[bytes]:
    for message in messages:
        traffic.count_sent(len(message) + GRPC_PREFIX_BYTES)
        yield message.joined() if isinstance(message, Segments) else message


def _counted(messages: Iterable[bytes], traffic: Traffic) -> Iterator[bytes]:
    for message in messages:
        traffic.count_received(len(message) + GRPC_PREFIX_BYTES)
        yield message


def _send(lane: Lane, messages: Iterable[Message]) -> Iterator[bytes]:
    """Send in the thread that gRPC has for a call's messages; the call itself carries none."""
    for message in messages:  # They end when the thread that reads has heard that the lane broke.
        with contextlib.suppress(OSError):
            lane.send(message)
    lane.end()
    yield from ()
