"""Whose factors are still missing? No threads, no sockets: pieces in, complete sets out.

Rule 1: every change to what has arrived happens in this file.
Rule 2: a refused piece changes nothing.

For every (key, step) each worker broadcasts its factors, or rows of a table, cut in pieces that
arrive in order. A set is complete when the factors of all ranks are there, this worker's own
included. A worker may be one step ahead of its peers, never two: it cannot finish a step without
their factors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.sfb.factors import RowSpec

# K of one worker may be at most this: a bound to check before memory is taken.
MAX_FACTOR_BYTES = 1024 * 1024 * 1024
# As many whole gradients: one of each of a worker's replicas.
MAX_WHOLE = 64


@dataclass(frozen=True, slots=True)
class CompleteSet:
    """The factors of all workers for one key and step, in rank order, as (rows, bytes)."""

    key: int
    step: int
    factors: tuple[tuple[int, bytes | bytearray], ...]


@dataclass(frozen=True, slots=True)
class Deserted:
    """A set that can never be complete, because worker `rank` has left."""

    rank: int
    reason: str


@dataclass(slots=True)
class _Arriving:
    rows: int
    total: int
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _KeyState:
    spec: RowSpec
    next_step: list[int]  # by rank: steps whose factors have arrived whole
    arriving: dict[int, _Arriving] = field(default_factory=dict)  # by rank
    sets: dict[int, dict[int, tuple[int, bytes | bytearray]]] = field(default_factory=dict)


@final
class FactorExchange:
    """What worker `rank` has received from its peers."""

    def __init__(self, *, num_workers: int, rank: int) -> None:
        self._num_workers = num_workers
        self._rank = rank
        self._keys: dict[int, _KeyState] = {}
        self._left: dict[int, int] = {}

    def register(self, key: int, spec: RowSpec, first_step: int = 0) -> None:
        """Expect factors under `key`, the number of the plan's unit, from that step on."""
        self._keys[key] = _KeyState(spec, [first_step] * self._num_workers)

    def spec(self, key: int) -> RowSpec:
        return self._keys[key].spec

    def add(
        self, rank: int, key: int, step: int, rows: int, offset: int, total: int, piece: memoryview
    ) -> list[CompleteSet | Deserted]:
        """Take one piece of the factors of `rank`; say what it completed.

        Raises:
          ProtocolError: unknown key or rank, a wrong step or size, sent twice or out of order, or
            the gradient of a row that the table does not have.
        """
        state = self._checked(rank, key, step, rows, offset, total, len(piece))
        if len(piece) == total:
            if fault := state.spec.fault(piece, rows):
                raise ProtocolError(f"rank {rank}, step {step}: {fault}")
            return self._arrived(rank, key, step, rows, bytes(piece))
        arriving = state.arriving.setdefault(rank, _Arriving(rows, total))
        arriving.data += piece
        if len(arriving.data) < total:
            return []
        if fault := state.spec.fault(arriving.data, rows):
            del arriving.data[offset:]
            raise ProtocolError(f"rank {rank}, step {step}: {fault}")
        del state.arriving[rank]
        return self._arrived(rank, key, step, rows, arriving.data)

    def add_own(self, key: int, step: int, rows: int, data: bytes) -> list[CompleteSet | Deserted]:
        """Take this worker's own factors, whole."""
        return self._arrived(self._rank, key, step, rows, data)

    def leave(self, rank: int, last_step: int) -> list[CompleteSet | Deserted]:
        """`rank` says goodbye; sets that miss its factors can never be complete."""
        self._left[rank] = last_step
        return [
            self._deserted(rank, state, step)
            for state in self._keys.values()
            for step, present in state.sets.items()
            if rank not in present
        ]

    def drop_pieces(self, rank: int) -> None:
        """The stream of `rank` has ended: what it began to send has to come again, whole."""
        for state in self._keys.values():
            state.arriving.pop(rank, None)

    def missing(self) -> list[tuple[str, int, list[int]]]:
        """Per incomplete set: the variable, the step, and the ranks waited for."""
        return [
            (state.spec.name, step, [r for r in range(self._num_workers) if r not in present])
            for state in self._keys.values()
            for step, present in state.sets.items()
        ]

    def _arrived(
        self, rank: int, key: int, step: int, rows: int, data: bytes | bytearray
    ) -> list[CompleteSet | Deserted]:
        state = self._keys[key]
        state.next_step[rank] = step + 1
        present = state.sets.setdefault(step, {})
        present[rank] = (rows, data)
        if len(present) == self._num_workers:
            del state.sets[step]
            return [CompleteSet(key, step, tuple(present[r] for r in sorted(present)))]
        return [self._deserted(gone, state, step) for gone in self._left if gone not in present]

    def _checked(
        self, rank: int, key: int, step: int, rows: int, offset: int, total: int, length: int
    ) -> _KeyState:
        if not 0 <= rank < self._num_workers or rank == self._rank:
            raise ProtocolError(f"factors from rank {rank}; this is rank {self._rank}")
        state = self._keys.get(key)
        if state is None:
            raise ProtocolError(
                f"rank {rank} sent factors for unit {key}, which is not in the plan"
            )
        name, expected = state.spec.name, state.next_step[rank]
        if step != expected:
            how = " twice" if step < expected else f"; its next step is {expected}"
            raise ProtocolError(f"rank {rank} sent factors of {name!r} for step {step}{how}")
        if step > state.next_step[self._rank] + 1:
            raise ProtocolError(f"rank {rank} sent factors of {name!r} two steps ahead")
        arriving = state.arriving.get(rank)
        at = len(arriving.data) if arriving else 0
        num_whole = state.spec.num_whole(rows, total)
        if arriving and (arriving.rows, arriving.total) != (rows, total):
            raise ProtocolError(f"rank {rank} changed the size of {name!r} within step {step}")
        if (
            num_whole is None
            or num_whole > MAX_WHOLE
            or state.spec.num_bytes(rows) > MAX_FACTOR_BYTES
            or offset != at
            or offset + length > total
            or (length == 0 and total > 0)
        ):
            raise ProtocolError(
                f"rank {rank} sent bytes {offset}..{offset + length} of {total} for {name!r}, "
                f"step {step}, {rows} rows; {state.spec.num_bytes(rows)} bytes from {at} on are due"
            )
        return state

    def _deserted(self, rank: int, state: _KeyState, step: int) -> Deserted:
        last_step = self._left[rank]
        when = f"after step {last_step}" if last_step >= 0 else "before its first step"
        return Deserted(
            rank,
            f"rank {rank} left {when} while rank {self._rank} waits for the factors of "
            f"{state.spec.name!r} of step {step}",
        )
