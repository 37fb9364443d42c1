"""A server's endpoint: unpack, ask the store, pack. Decides under a lock, acts outside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import final

from google.protobuf.message import DecodeError

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.accounts import SumAccount, SumFigures
from poseidon_tf.kv.store import Action, Credit, Deserted, KeySpec, Release, Store
from poseidon_tf.transport.frame_queue import FRAME_BYTES, FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.transport.streams import Stream
from poseidon_tf.wire import frames, identities
from poseidon_tf.wire.frame_pb2 import (
    FrameHeader,
    InspectReply,
    InspectRequest,
    KeyNumbers,
    KeyState,
    KeyTable,
    Part,
)
from poseidon_tf.wire.frames import Buffer

# Long-lived streams, each with a connection of its own, between a worker and a server.
STREAMS_PER_SERVER = 2
_FEW_SERVERS = 2
# Pieces up to here go on the first of them.
FIRST_STREAM_BYTES = 64 * 1024

# Of one table. A worker that has more keys announces them in several.
MAX_TABLE_KEYS = 1024
# Its bytes, looked at before they are parsed: a parsed key takes ten times its bytes and more.
MAX_TABLE_BYTES = 1280 * MAX_TABLE_KEYS
# A worker's wish for how much credit the server may keep back; a window is far smaller.
_MAX_CREDIT_STEP = 1024 * 1024 * 1024

REGISTER = "/poseidon_tf.KVStore/Register"
EXCHANGE = "/poseidon_tf.KVStore/Exchange"
INSPECT = "/poseidon_tf.KVStore/Inspect"
_log = logging.getLogger("poseidon_tf")


def streams_per_server(num_servers: int) -> int:
    """How many streams a worker opens to each server.

    One connection cannot use two cores; with several servers there are several anyway, and more
    would only cut what is sent into more messages and share the link among more flows.
    """
    return STREAMS_PER_SERVER if num_servers <= _FEW_SERVERS else 1


def stream_of(key: int, num_bytes: int, num_streams: int) -> int:
    """Which stream of a worker carries a piece of so many bytes.

    Large pieces take turns. Small ones share messages, and a message costs more than they do.
    """
    return key % num_streams if num_bytes > FIRST_STREAM_BYTES else 0


@final
class KVService:
    """Serves one `Store` on one transport server.

    Args:
      server: not started yet.
      addresses: of the workers, by rank, to name them with; () or "" where unknown.
      num_streams: see `streams_per_server`; the same for every worker.
      index, identity: which server this is, and its identity; who means another one is refused.
      memory: shared with the worker of rank `memory_rank`, which started this server. What that
        worker has put there is summed from there, and its sums go to the same places.
      on_received: called after each push with (rank, key name, step), for tests and timelines.
      on_released: called with (key name, step) when a sum is on its way to all workers.
    """

    def __init__(
        self,
        server: Server,
        *,
        num_workers: int,
        addresses: Sequence[str] = (),
        num_streams: int = STREAMS_PER_SERVER,
        index: int = 0,
        identity: str = "",
        memory: SharedMemory | None = None,
        memory_rank: int = -1,
        on_received: Callable[[int, str, int], None] | None = None,
        on_released: Callable[[str, int], None] | None = None,
    ) -> None:
        self._store = Store(num_workers, addresses)
        self._name, self._identity = f"server {index}", identity
        self._memory, self._memory_rank = memory, memory_rank
        self._places: dict[tuple[int, int], int] = {}  # (key, step) pushed through memory -> place
        self._num_workers, self._num_streams = num_workers, num_streams
        self._specs: list[KeySpec] = []  # By key number.
        self._on_received, self._on_released = on_received, on_released
        self._account = SumAccount(time.monotonic())
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, int], FrameQueue] = {}
        self._goodbyes: dict[int, set[int]] = {}  # rank -> its streams that have ended in order
        server.add_unary(REGISTER, self._register)
        server.add_unary(INSPECT, self._inspect)
        server.add_stream(EXCHANGE, self._accept, with_lanes=True)

    def learn(self, addresses: Sequence[str]) -> None:
        """The workers' addresses, known from now on."""
        with self._lock:
            self._store.learn(addresses)

    @staticmethod
    def streams_needed(num_workers: int, num_streams: int = STREAMS_PER_SERVER) -> int:
        """How many streams stay open here, each of which holds a thread."""
        return num_workers * num_streams

    def _register(self, request: bytes) -> bytes:
        if len(request) > MAX_TABLE_BYTES:
            raise ProtocolError(f"a key table of {len(request)} bytes, more than {MAX_TABLE_BYTES}")
        try:
            table = KeyTable.FromString(request)
        except DecodeError as failure:
            raise ProtocolError("a key table that cannot be read") from failure
        if len(table.keys) > MAX_TABLE_KEYS:
            raise ProtocolError(f"a table of {len(table.keys)} keys, more than {MAX_TABLE_KEYS}")
        identities.check_meant(table.to, self._identity, self._name)
        specs = [
            KeySpec(key.name, key.dtype, key.num_elements, key.priority, key.first_step)
            for key in table.keys
        ]
        with self._lock:
            numbers = self._store.register(table.rank, specs)
            for number, spec in zip(numbers, specs, strict=True):
                if number == len(self._specs):
                    self._specs.append(spec)
        reply: bytes = KeyNumbers(numbers=numbers).SerializeToString()
        return reply

    def _inspect(self, request: bytes) -> bytes:
        try:
            meant = InspectRequest.FromString(request).to
        except DecodeError as failure:
            raise ProtocolError("a question that cannot be read") from failure
        identities.check_meant(meant, self._identity, self._name)
        with self._lock:
            keys = list(self._store.contributions())
            held_bytes = self._store.held_bytes()
        reply: bytes = InspectReply(
            keys=[KeyState(name=name, contributions=counts) for name, counts in keys],
            held_bytes=held_bytes,
        ).SerializeToString()
        return reply

    def _accept(self, stream: Stream) -> _WorkerStream:
        identities.check_stream(stream.metadata, self._identity, self._name)
        try:
            rank, index = int(stream.metadata["rank"]), int(stream.metadata["stream"])
        except (KeyError, ValueError):
            raise ProtocolError("a stream without rank and stream number") from None
        if not (0 <= rank < self._num_workers and 0 <= index < self._num_streams):
            raise ProtocolError(
                f"stream {index} of rank {rank}; this server serves {self._num_workers} workers "
                f"with {self._num_streams} streams each"
            )
        credit_step = stream.metadata.get("credit_step", "0")
        # The length keeps int() away from a string of thousands of digits.
        is_number = credit_step.isdecimal() and len(credit_step) <= len(str(_MAX_CREDIT_STEP))
        if not is_number or int(credit_step) > _MAX_CREDIT_STEP:
            raise ProtocolError(
                f"a stream whose credit_step is {credit_step[:20]!r}, not a number up to "
                f"{_MAX_CREDIT_STEP}"
            )
        with self._lock:
            if (rank, index) in self._queues:
                raise ProtocolError(f"stream {index} of rank {rank} is open already")
            queue = FrameQueue(credit_step=int(credit_step), memory=self._memory)
            self._queues[rank, index] = queue
        stream.outgoing = queue
        return _WorkerStream(self, stream, rank, index)

    def take(
        self,
        rank: int,
        index: int,
        parts: Iterable[tuple[Part, memoryview]],
        *,
        may_write: bool,
    ) -> None:
        """The contributions of one frame of `rank` on its stream `index`; see `Store.push`.

        What follows from them leaves at once, each stream being woken once.
        """
        deliveries: list[tuple[Action, int]] = []
        try:
            for part, payload in parts:
                deliveries += self.take_part(rank, index, part, payload, may_write=may_write)
        finally:  # Those before a refused one have been taken.
            self._act(deliveries, index)

    def take_part(
        self, rank: int, index: int, part: Part, payload: memoryview, *, may_write: bool
    ) -> list[tuple[Action, int]]:
        """One of them; what follows from it, for `_act`. What it refuses changes nothing."""
        if stream_of(part.key, part.length, self._num_streams) != index:
            raise ProtocolError(
                f"rank {rank} pushed {part.length} bytes of key number {part.key} on stream {index}"
            )
        place = None
        if part.place:
            if self._memory is None or rank != self._memory_rank:
                raise ProtocolError(f"rank {rank} shares no memory with this server")
            payload = place = self._memory.view(part.place - 1, part.length)
        with self._lock:
            began_s = time.monotonic()
            actions = self._store.push(
                rank, part.key, part.step, payload, place, may_write=may_write
            )
            if part.place:
                self._places[part.key, part.step] = part.place
            deliveries = [self._with_place(action, part) for action in actions]
            self._account_for(rank, part, deliveries, began_s)
        if self._on_received is not None:
            self._on_received(rank, self._specs[part.key].name, part.step)
        return deliveries

    def _with_place(self, action: Action, part: Part) -> tuple[Action, int]:
        """The action, and where in the shared memory it happens, plus one; 0: elsewhere."""
        match action:
            case Credit(rank, _) if rank == self._memory_rank:
                return action, self._places.get((part.key, part.step), 0)
            case Release():
                return action, self._places.pop((part.key, part.step), 0)
            case _:
                return action, 0

    def _account_for(
        self, rank: int, part: Part, deliveries: list[tuple[Action, int]], began_s: float
    ) -> None:
        """Note a contribution that came at `began_s`; the caller holds the lock."""
        account = self._account
        if not part.place:
            account.received_bytes += part.length
        sums = [(action, place) for action, place in deliveries if isinstance(action, Release)]
        for action, place in sums:  # What goes through memory crosses no network.
            account.sent_bytes += len(action.payload) * (self._num_workers - bool(place))
        account.took(
            rank,
            part.key,
            part.step,
            began_s=began_s,
            ended_s=time.monotonic(),
            is_last=bool(sums),
        )

    def look(self) -> tuple[SumFigures, str]:
        """How this server is doing since the look before, and what it waits for now, in words."""
        with self._lock:
            figures = self._account.look(time.monotonic())
            oldest = self._account.oldest
            return figures, "" if oldest is None else self._store.awaited(*oldest)

    def leave(self, rank: int, index: int, last_step: int) -> None:
        """`rank` has said goodbye on its stream `index`; it has left when it has on all."""
        with self._lock:
            said = self._goodbyes.setdefault(rank, set())
            said.add(index)
            if len(said) < self._num_streams:
                return
            actions = self._store.leave(rank, last_step)
        self._act([(action, 0) for action in actions], 0)

    def closed(self, rank: int, index: int, error: Exception | None) -> None:
        """A stream has ended; whether the worker is lost is for the coordinator to say."""
        with self._lock:
            self._queues.pop((rank, index), None)
        if error is not None:
            _log.debug("stream %d of rank %d: %s", index, rank, error)

    def _act(self, deliveries: list[tuple[Action, int]], index: int) -> None:
        sums: dict[int, list[tuple[Part, Buffer, int]]] = {}  # By rank.
        credits: dict[int, int] = {}
        for action, place in deliveries:
            match action:
                case Release():
                    self._release(action, index, place, sums)
                case Credit(rank, num_bytes):
                    if not place:  # What came through memory used none.
                        credits[rank] = credits.get(rank, 0) + num_bytes
                case Deserted(_, reason):
                    for queue in list(self._queues.values()):
                        queue.put(frames.refusal(reason))
        for rank in {**credits, **sums}:
            if (outgoing := self._queues.get((rank, index))) is not None:
                outgoing.put_all(sums.get(rank, ()), credit=credits.get(rank, 0))
        if self._on_released is not None:
            for action, _ in deliveries:
                if isinstance(action, Release):
                    self._on_released(self._specs[action.key].name, action.step)

    def _release(
        self,
        release: Release,
        index: int,
        place: int,
        sums: dict[int, list[tuple[Part, Buffer, int]]],
    ) -> None:
        """Put a finished sum on its way; a small one is added to those of the same frame."""
        key, step, payload = release.key, release.step, release.payload
        priority = self._specs[key].priority
        part = Part(key=key, step=step, length=len(payload))
        others = [r for r in range(self._num_workers) if not (place and r == self._memory_rank)]
        # One message for all. What is in the shared memory is copied before its worker hears of
        # the sum: from then on the memory is the worker's again.
        if len(payload) > FRAME_BYTES:
            header = FrameHeader(parts=[part])
            message = (frames.encode if place else frames.message)(header, [payload])
            for rank in others:
                if queue := self._queues.get((rank, index)):
                    queue.put_frame(message, step=step, priority=priority)
        else:
            small = bytes(payload) if place else payload
            for rank in others:
                sums.setdefault(rank, []).append((part, small, priority))
        if place:
            placed = Part(key=key, step=step, length=len(payload), place=place)
            sums.setdefault(self._memory_rank, []).append((placed, b"", priority))


@final
class _WorkerStream:
    """Receives one stream of one worker."""

    def __init__(self, service: KVService, stream: Stream, rank: int, index: int) -> None:
        self._service, self._stream = service, stream
        self._rank, self._index = rank, index

    def on_message(self, message: frames.Message) -> None:
        header, payloads = frames.decode(message)
        may_write = isinstance(message, frames.Segments)  # A lane reads into memory of its own.
        if header.parts:
            parts = zip(header.parts, payloads, strict=True)
            self._service.take(self._rank, self._index, parts, may_write=may_write)
        if header.HasField("goodbye"):
            self._service.leave(self._rank, self._index, header.goodbye.last_step)

    def on_closed(self, error: Exception | None) -> None:
        self._service.closed(self._rank, self._index, error)
        self._stream.close()
