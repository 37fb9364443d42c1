"""A server's endpoint: unpack, ask the store, pack. Decides under a lock, acts outside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import final

from google.protobuf.message import DecodeError

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.store import Action, Credit, Deserted, KeySpec, Release, Store
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.over_grpc import Server, Stream
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import InspectReply, KeyNumbers, KeyState, KeyTable, Part

# Long-lived streams, each with a connection of its own, between a worker and a server.
STREAMS_PER_SERVER = 2

REGISTER = "/poseidon_tf.KVStore/Register"
EXCHANGE = "/poseidon_tf.KVStore/Exchange"
INSPECT = "/poseidon_tf.KVStore/Inspect"
_log = logging.getLogger("poseidon_tf")


@final
class KVService:
    """Serves one `Store` on one transport server.

    Args:
      server: not started yet.
      on_received: called after each push with (rank, key name, step), for tests and timelines.
      on_released: called with (key name, step) when a sum is on its way to all workers.
    """

    def __init__(
        self,
        server: Server,
        *,
        num_workers: int,
        on_received: Callable[[int, str, int], None] | None = None,
        on_released: Callable[[str, int], None] | None = None,
    ) -> None:
        self._store = Store(num_workers)
        self._num_workers = num_workers
        self._names: list[str] = []
        self._on_received, self._on_released = on_received, on_released
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, int], FrameQueue] = {}
        self._goodbyes: dict[int, set[int]] = {}  # rank -> its streams that have ended in order
        server.add_unary(REGISTER, self._register)
        server.add_unary(INSPECT, self._inspect)
        server.add_stream(EXCHANGE, self._accept)

    @staticmethod
    def streams_needed(num_workers: int) -> int:
        """How many streams stay open here, each of which holds a thread."""
        return num_workers * STREAMS_PER_SERVER

    def _register(self, request: bytes) -> bytes:
        try:
            table = KeyTable.FromString(request)
        except DecodeError as failure:
            raise ProtocolError("a key table that cannot be read") from failure
        specs = [KeySpec(key.name, key.dtype, key.num_elements) for key in table.keys]
        with self._lock:
            numbers = self._store.register(table.rank, specs)
            for number, spec in zip(numbers, specs, strict=True):
                if number == len(self._names):
                    self._names.append(spec.name)
        reply: bytes = KeyNumbers(numbers=numbers).SerializeToString()
        return reply

    def _inspect(self, request: bytes) -> bytes:
        with self._lock:
            keys = list(self._store.contributions())
            held_bytes = self._store.held_bytes()
        reply: bytes = InspectReply(
            keys=[KeyState(name=name, contributions=counts) for name, counts in keys],
            held_bytes=held_bytes,
        ).SerializeToString()
        return reply

    def _accept(self, stream: Stream) -> _WorkerStream:
        try:
            rank, index = int(stream.metadata["rank"]), int(stream.metadata["stream"])
        except (KeyError, ValueError):
            raise ProtocolError("a stream without rank and stream number") from None
        if not (0 <= rank < self._num_workers and 0 <= index < STREAMS_PER_SERVER):
            raise ProtocolError(
                f"stream {index} of rank {rank}; this server serves {self._num_workers} workers "
                f"with {STREAMS_PER_SERVER} streams each"
            )
        with self._lock:
            if (rank, index) in self._queues:
                raise ProtocolError(f"stream {index} of rank {rank} is open already")
            queue = self._queues[rank, index] = FrameQueue()
        stream.outgoing = queue
        return _WorkerStream(self, stream, rank, index)

    def take(self, rank: int, index: int, part: Part, payload: memoryview) -> None:
        """One contribution of `rank` on its stream `index`."""
        if part.key % STREAMS_PER_SERVER != index:
            raise ProtocolError(f"rank {rank} pushed key number {part.key} on stream {index}")
        with self._lock:
            actions = self._store.push(rank, part.key, part.step, payload)
        if self._on_received is not None:
            self._on_received(rank, self._names[part.key], part.step)
        self._act(actions, index)

    def leave(self, rank: int, index: int, last_step: int) -> None:
        """`rank` has said goodbye on its stream `index`; it has left when it has on all."""
        with self._lock:
            said = self._goodbyes.setdefault(rank, set())
            said.add(index)
            if len(said) < STREAMS_PER_SERVER:
                return
            actions = self._store.leave(rank, last_step)
        self._act(actions, 0)

    def closed(self, rank: int, index: int, error: Exception | None) -> None:
        """A stream has ended; whether the worker is lost is for the coordinator to say."""
        with self._lock:
            self._queues.pop((rank, index), None)
        if error is not None:
            _log.debug("stream %d of rank %d: %s", index, rank, error)

    def _act(self, actions: list[Action], index: int) -> None:
        for action in actions:
            match action:
                case Release(key, step, payload):
                    part = Part(key=key, step=step, length=len(payload))
                    for rank in range(self._num_workers):
                        if queue := self._queues.get((rank, index)):
                            queue.put_parts([(part, payload)])
                    if self._on_released is not None:
                        self._on_released(self._names[key], step)
                case Credit(rank, num_bytes):
                    if queue := self._queues.get((rank, index)):
                        queue.give_credit(num_bytes)
                case Deserted(_, reason):
                    for queue in list(self._queues.values()):
                        queue.put(frames.refusal(reason))


@final
class _WorkerStream:
    """Receives one stream of one worker."""

    def __init__(self, service: KVService, stream: Stream, rank: int, index: int) -> None:
        self._service, self._stream = service, stream
        self._rank, self._index = rank, index

    def on_message(self, message: bytes) -> None:
        header, payloads = frames.decode(message)
        for part, payload in zip(header.parts, payloads, strict=True):
            self._service.take(self._rank, self._index, part, payload)
        if header.HasField("goodbye"):
            self._service.leave(self._rank, self._index, header.goodbye.last_step)

    def on_closed(self, error: Exception | None) -> None:
        self._service.closed(self._rank, self._index, error)
        self._stream.close()
