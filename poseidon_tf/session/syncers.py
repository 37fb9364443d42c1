"""How one unit's contribution leaves a worker and how its sum comes back, by scheme.

A syncer (the paper's noun) is told the step; counting steps, waiting and failing are the
session's. `send` never blocks; `done` is called on a reading thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import numpy as np

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.store import KeySpec, key_specs
from poseidon_tf.planner import KVPair
from poseidon_tf.session.buffers import Buffers
from poseidon_tf.sfb.exchange import CompleteSet
from poseidon_tf.sfb.factors import RowSpec, joined, pack, unpack
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.wire.dtypes import Array, wire_dtype

Done = Callable[[int, list[Array]], None]
"""Called with (step, results) when a step of a unit is complete."""


class Syncer(Protocol):
    """One unit's way to the other workers and back."""

    @property
    def name(self) -> str: ...

    def send(self, step: int, arrays: Sequence[Array]) -> None:
        """Contribute this worker's `arrays` for `step`."""

    def payload_bytes(self) -> tuple[int, int]:
        """Tensor bytes sent and received so far."""

    def release(self) -> None:
        """Keep no memory until it sends again; what is in use is free when its user is done."""


class Sum(NamedTuple):
    """What servers are asked to sum under one name, in so many pairs.

    Attributes:
      name, first_step: the same on all workers, as is all else.
      priority: of its keys; see `FrameQueue`.
    """

    name: str
    dtype: str
    pairs: Sequence[KVPair]
    priority: int = 0
    first_step: int = 0

    def keys(self) -> list[KeySpec]:
        """One for each pair."""
        lengths = [pair.length for pair in self.pairs]
        return key_specs(
            self.name, self.dtype, lengths, priority=self.priority, first_step=self.first_step
        )


@dataclass(frozen=True, slots=True, eq=False)  # A pair is only ever equal to itself.
class Pair:
    """A KV pair on the wire: the link to its server, its number there, and which bytes it has."""

    link: ServerLink
    key: int
    offset: int
    num_bytes: int


@final
class ServerSyncer:
    """Pushes a unit's KV pairs to their servers and puts the sums together.

    Args:
      dtype: of the one flat vector that the unit's arrays make, end to end.
      pairs: in order of offset, covering the vector; or one pair of 0 bytes for a value whose
        size may change from step to step.
      priority: as their keys were announced.
    """

    def __init__(
        self, name: str, dtype: str, pairs: Sequence[Pair], done: Done, *, priority: int = 0
    ) -> None:
        self.name = name
        self._priority = priority
        self._dtype = wire_dtype(dtype)
        self._pairs = tuple(pairs)
        self._num_bytes = sum(pair.num_bytes for pair in pairs)
        memories = [pair.link.memory for pair in pairs if pair.link.memory is not None]
        self._totals = Buffers(self._num_bytes, memories[0] if memories else None)
        self._done = done
        self._lock = threading.Lock()
        # Step -> total, and the pairs that it misses.
        self._arriving: dict[int, tuple[Array, set[Pair]]] = {}
        self._sent_bytes = self._received_bytes = 0
        self.shared_bytes = 0  # Of both, what stayed in the memory shared with a server.

    def send(self, step: int, arrays: Sequence[Array]) -> None:
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        vector = flat[0] if len(flat) == 1 else np.concatenate(flat)
        view = vector.view(np.uint8).data
        self._sent_bytes += len(view)
        place = None
        if self._num_bytes:
            total, place = self._totals.take()
            with self._lock:
                self._arriving[step] = (total, set(self._pairs))
        by_link: dict[ServerLink, list[Piece]] = {}
        for pair in self._pairs:
            end = pair.offset + pair.num_bytes if self._num_bytes else len(view)
            offset = None
            if place is not None and pair.link.memory is not None:
                offset = place + pair.offset
                self.shared_bytes += pair.num_bytes
            piece = Piece(pair.key, view[pair.offset : end], offset)
            by_link.setdefault(pair.link, []).append(piece)
        for link, pieces in by_link.items():
            link.push(pieces, step=step, priority=self._priority)

    def room(self, pair: Pair, step: int, num_bytes: int) -> memoryview | None:
        """Where the sum of one of its pairs belongs, if it is due: it may be read there.

        It counts as come only with `receive`.
        """
        with self._lock:
            total, missing = self._arriving.get(step, (None, set()))
            is_due = pair in missing and num_bytes == pair.num_bytes
        if total is None or not is_due:
            return None
        return total[pair.offset : pair.offset + num_bytes].data

    def receive(self, pair: Pair, step: int, payload: memoryview | None) -> None:
        """Take the sum of one of its pairs; None if it is in the shared memory, where it belongs.

        Raises:
          ProtocolError: no such sum is due; nothing has changed.
        """
        num_bytes = pair.num_bytes if payload is None else len(payload)
        with self._lock:  # Every stream has a thread of its own.
            total, missing = self._checked(pair, step, payload)
            self._received_bytes += num_bytes
            self.shared_bytes += num_bytes * (payload is None)
        if total is None:
            assert payload is not None
            self._done(step, [np.frombuffer(payload, self._dtype)])
            return
        if payload is not None:
            place, came = total[pair.offset : pair.offset + num_bytes], np.frombuffer(payload, "u1")
            if place.ctypes.data != came.ctypes.data:  # Else it was read where it belongs.
                np.copyto(place, came)
        with self._lock:
            missing.discard(pair)
            if missing:
                return
            del self._arriving[step]
        self._done(step, [total.view(self._dtype)])

    def _checked(
        self, pair: Pair, step: int, payload: memoryview | None
    ) -> tuple[Array | None, set[Pair]]:
        """Where the sum goes, and what is missing; None for a value of any size."""
        where = f"the sum of {self.name!r} of step {step} from {pair.link.address}"
        if payload is None and pair.link.memory is None:
            raise ProtocolError(f"{where}: said to be in a memory that is not shared")
        if not self._num_bytes:
            if payload is None or len(payload) % self._dtype.itemsize:
                raise ProtocolError(f"{where}: not a number of {self._dtype}")
            return None, set()
        total, missing = self._arriving.get(step, (None, set()))
        if total is None or pair not in missing:
            raise ProtocolError(f"{where}: it is not due, or came twice")
        if payload is not None and len(payload) != pair.num_bytes:
            raise ProtocolError(f"{where}: {len(payload)} bytes, {pair.num_bytes} are due")
        return total, missing

    def payload_bytes(self) -> tuple[int, int]:
        return self._sent_bytes, self._received_bytes

    def release(self) -> None:
        self._totals.release()


@final
class FactorSyncer:
    """Broadcasts a kernel's factors, or rows of a table, and joins all workers' in rank order.

    Args:
      priority: see `FactorService.broadcast`.
      first_step: of which there will be factors.
    """

    def __init__(
        self,
        spec: RowSpec,
        *,
        key: int,
        num_peers: int,
        factors: FactorService,
        done: Done,
        on_sent: Callable[[int], None],
        priority: int = 0,
        first_step: int = 0,
    ) -> None:
        self.name = spec.name
        self._priority = priority
        self._spec, self._key, self._num_peers = spec, key, num_peers
        self._factors, self._done, self._on_sent = factors, done, on_sent
        self._lock = threading.Lock()
        self._sent_bytes = self._received_bytes = 0
        self._joined: dict[int, list[Buffers]] = {}  # Rows of all workers -> by array.
        factors.register(key, spec, first_step)

    def send(self, step: int, arrays: Sequence[Array]) -> None:
        rows, *others = [len(array) for array in arrays[: len(self._spec.arrays)]]
        packed = pack(*arrays)
        is_even = all(other == rows for other in others)
        if not is_even or self._spec.num_whole(rows, len(packed)) is None:
            raise ProtocolError(
                f"arrays of shapes {', '.join(str(array.shape) for array in arrays)} are not of "
                f"{rows} rows of {self._spec.row_bytes} bytes"
            )
        if fault := self._spec.fault(packed, rows):
            raise ProtocolError(fault)
        with self._lock:
            self._sent_bytes += self._num_peers * len(packed)
            self._received_bytes -= len(packed)  # Comes back in the set, but not over the wire.
        self._factors.broadcast(self._key, step, rows, packed, priority=self._priority)
        self._on_sent(step)

    def receive(self, complete: CompleteSet) -> None:
        """Take the factors of all workers."""
        with self._lock:  # Any of the peers' threads may bring what was missing.
            self._received_bytes += sum(len(data) for _, data in complete.factors)
        contributions = [unpack(data, self._spec, rows) for rows, data in complete.factors]
        num_rows = sum(rows for rows, _ in complete.factors)
        buffers = self._joined.get(num_rows)
        if buffers is None:  # Other last batches are rare.
            buffers = [Buffers(num_rows * columns.row_bytes) for columns in self._spec.arrays]
            self._joined = {num_rows: buffers}
        into = [
            each.take().values.view(wire_dtype(columns.dtype)).reshape(num_rows, columns.width)
            for each, columns in zip(buffers, self._spec.arrays, strict=True)
        ]
        num_even = len(into)
        results = list(joined([each[:num_even] for each in contributions], into))
        if self._spec.whole is not None:
            results += joined([each[num_even:] for each in contributions])
        self._done(complete.step, results)

    def payload_bytes(self) -> tuple[int, int]:
        return self._sent_bytes, self._received_bytes

    def release(self) -> None:
        with self._lock:
            self._joined = {}
