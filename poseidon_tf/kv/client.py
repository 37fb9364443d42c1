"""A worker's link to one server: announces keys, pushes pieces, hands finished sums over."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, final

from google.protobuf.message import DecodeError

from poseidon_tf.errors import MemberError, ProtocolError
from poseidon_tf.kv.service import (
    EXCHANGE,
    INSPECT,
    MAX_TABLE_BYTES,
    MAX_TABLE_KEYS,
    REGISTER,
    STREAMS_PER_SERVER,
    stream_of,
)
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.transport.base import Traffic
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames, identities
from poseidon_tf.wire.frame_pb2 import (
    InspectReply,
    InspectRequest,
    Key,
    KeyNumbers,
    KeyTable,
    Part,
)
from poseidon_tf.wire.frames import Buffer, Message

# Contributions of one worker that a server may hold before it has added them.
WINDOW_BYTES = 32 * 1024 * 1024
# Credit may be kept back until it is this part of the window.
_CREDIT_STEPS = 8
# Of a key in a table, its tag and length; and of a table, what is beside the keys.
_KEY_BYTES = 8
_TABLE_BYTES = MAX_TABLE_BYTES - 1024

SumRoom = Callable[[int, int, int], memoryview | None]
"""Called with (key number, step, bytes): where that sum belongs; None if it may lie anywhere."""
OnSum = Callable[[int, int, memoryview | None], None]
"""Called with (key number, step, the sum's bytes). The bytes stay valid while referenced; None says
that the server has left them in the shared memory, where the contribution was. They may be where
`SumRoom` has said."""


class Piece(NamedTuple):
    """One contribution to one key.

    Attributes:
      payload: its bytes, which must not change until the sum is there.
      place: for a server that shares memory, the offset in it where contribution and sum go.
    """

    key: int
    payload: memoryview
    place: int | None = None


@final
class ServerLink:
    """Streams to one server.

    Args:
      address, identity: the server's "host:port", and which process is meant there.
      rank: this worker's.
      on_sum: hears of every finished sum, on a stream's reading thread; must not block.
      room: asked where a sum belongs before its bytes are read, if they are read into a place.
      on_lost: hears once per stream that ended with an error, or of a refusal.
      on_sent: hears of every (key number, step) that a stream has taken.
      window_bytes: see `WINDOW_BYTES`.
      num_streams: as the server has it.
      memory: shared with this server, which this worker has started on its own host.
      settings: how the connections behave.
    """

    def __init__(
        self,
        address: str,
        *,
        rank: int,
        identity: str = "",
        on_sum: OnSum,
        on_lost: Callable[[Exception], None],
        on_sent: Callable[[int, int], None] | None = None,
        room: SumRoom = lambda key, step, num_bytes: None,
        window_bytes: int = WINDOW_BYTES,
        num_streams: int = STREAMS_PER_SERVER,
        memory: SharedMemory | None = None,
        settings: ConnectionSettings = ConnectionSettings(),
    ) -> None:
        self.address = address
        self._rank, self._identity = rank, identity
        self._has_left = False
        self.memory = memory
        credit_step = window_bytes // num_streams // _CREDIT_STEPS
        self._queues = [
            FrameQueue(
                window_bytes=window_bytes // num_streams,
                credit_step=credit_step,
                memory=memory,
                on_taken=on_sent,
            )
            for _ in range(num_streams)
        ]
        self._channels = [Channel(address, settings=settings) for _ in range(num_streams)]
        self._streams = [
            channel.open_stream(
                EXCHANGE,
                _SumReceiver(queue, on_sum, on_lost),
                metadata={
                    identities.TO: identity,
                    "rank": str(rank),
                    "stream": str(index),
                    "credit_step": str(credit_step),
                },
                outgoing=queue,
                with_lane=True,
                room=functools.partial(_room, room),
            )
            for index, (channel, queue) in enumerate(zip(self._channels, self._queues, strict=True))
        ]

    def reach(self, *, timeout_s: float, over: threading.Event | None = None) -> None:
        """Wait until the server answers, or until this is in vain; see `Channel.reach`.

        Raises:
          StartTimeout: it did not in `timeout_s` seconds.
          ConfigError: it has another token, or its certificate is wrong.
        """
        self._channels[0].reach("the server", timeout_s=timeout_s, over=over)

    def round_trip_s(self, *, timeout_s: float, over: threading.Event | None = None) -> float:
        """How long the server takes to answer a question; see `reach`."""
        return self._channels[0].round_trip_s("the server", timeout_s=timeout_s, over=over)

    def register(self, specs: Sequence[KeySpec], *, timeout_s: float) -> list[int]:
        """Announce keys; their numbers, in order.

        Raises:
          ProtocolError: another worker announced one of them otherwise, a name is too long, or the
            server at this address is not the one that is meant.
          PeerLost: no answer within `timeout_s` seconds.
        """
        numbers: list[int] = []
        for keys in _tables(specs):
            table = KeyTable(rank=self._rank, keys=keys, to=self._identity)
            reply = self._channels[0].call(REGISTER, table.SerializeToString(), timeout_s=timeout_s)
            try:
                answer = KeyNumbers.FromString(reply).numbers
            except DecodeError as failure:
                raise ProtocolError(
                    f"the server at {self.address} answered with no numbers"
                ) from failure
            if len(answer) != len(keys):
                raise ProtocolError(
                    f"the server at {self.address} gave {len(keys)} keys {len(answer)} numbers"
                )
            numbers += answer
        return numbers

    def push(self, pieces: Iterable[Piece], *, step: int, priority: int = 0) -> None:
        """Queue one contribution per piece; never blocks.

        Args:
          priority: as the keys were announced.
        """
        by_stream: list[list[tuple[Part, Buffer]]] = [[] for _ in self._queues]
        for piece in pieces:
            place = 0 if piece.place is None else piece.place + 1
            part = Part(key=piece.key, step=step, length=len(piece.payload), place=place)
            stream = stream_of(piece.key, len(piece.payload), len(self._queues))
            by_stream[stream].append((part, piece.payload))
        for queue, parts in zip(self._queues, by_stream, strict=True):
            if parts:
                queue.put_parts(parts, priority=priority)

    def inspect(self, *, timeout_s: float) -> InspectReply:
        """What the server has received so far.

        Raises:
          ProtocolError: the answer cannot be read.
          PeerLost: no answer within `timeout_s` seconds.
        """
        request = InspectRequest(to=self._identity).SerializeToString()
        answer = self._channels[0].call(INSPECT, request, timeout_s=timeout_s)
        try:
            reply: InspectReply = InspectReply.FromString(answer)
        except DecodeError as failure:
            raise ProtocolError(f"the server at {self.address} answered with no state") from failure
        return reply

    def traffic(self) -> list[Traffic]:
        """Bytes and messages of each stream."""
        return [stream.traffic for stream in self._streams]

    def leave(self, last_step: int) -> None:
        """Say goodbye on every stream, after what has been pushed, and send nothing more."""
        self._has_left = True
        for queue in self._queues:
            queue.finish(frames.goodbye(last_step))

    def close(self, *, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the streams to end, then cut them."""
        if not self._has_left:
            for stream in self._streams:
                stream.close()
        for stream in self._streams:
            stream.wait_ended(timeout_s=timeout_s)
        for channel in self._channels:
            channel.close()


def _tables(specs: Sequence[KeySpec]) -> Iterator[list[Key]]:
    """The keys of as many tables as it takes, none of them longer than a server reads."""
    keys: list[Key] = []
    num_bytes = 0
    for spec in specs:
        key = Key(
            name=spec.name,
            dtype=spec.dtype,
            num_elements=spec.num_elements,
            priority=spec.priority,
            first_step=spec.first_step,
        )
        size = key.ByteSize() + _KEY_BYTES
        if keys and (len(keys) == MAX_TABLE_KEYS or num_bytes + size > _TABLE_BYTES):
            yield keys
            keys, num_bytes = [], 0
        keys.append(key)
        num_bytes += size
    if keys:
        yield keys


def _room(of_sum: SumRoom, head: bytes, num_bytes: int) -> memoryview | None:
    """Where the payload of a frame belongs: only if it is that of one sum."""
    header = frames.decode_head(head)
    if len(header.parts) != 1 or header.parts[0].length != num_bytes:
        return None
    (part,) = header.parts
    return of_sum(part.key, part.step, num_bytes)


@final
class _SumReceiver:
    def __init__(
        self, queue: FrameQueue, on_sum: OnSum, on_lost: Callable[[Exception], None]
    ) -> None:
        self._queue, self._on_sum, self._on_lost = queue, on_sum, on_lost

    def on_message(self, message: Message) -> None:
        header, payloads = frames.decode(message)
        if header.refusal:
            raise MemberError(header.refusal)
        if header.credit:
            self._queue.take_credit(header.credit)
        for part, payload in zip(header.parts, payloads, strict=True):
            self._on_sum(part.key, part.step, None if part.place else payload)

    def on_closed(self, error: Exception | None) -> None:
        if error is not None:
            self._on_lost(error)
