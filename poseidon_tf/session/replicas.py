"""Joins what a worker's replicas contribute to a step, before any of it leaves the host.

No threads, no TensorFlow: contributions in, joined ones out. Replicas are joined in the order of
their ids, whatever the order of arrival, so the same gradients give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import numpy as np

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.dtypes import Array, narrow, widen, wire_dtype

Combine = Callable[[Sequence[Sequence[Array]]], list[Array]]
"""From the arrays of every replica, in the order of their ids, to the worker's."""


class Joined(NamedTuple):
    """What one contribution led to.

    Attributes:
      step: the first one, and how often this replica has contributed before.
      is_first: no other replica has contributed to that step yet.
      arrays: the worker's contribution, once all replicas have given theirs.
    """

    step: int
    is_first: bool
    arrays: list[Array] | None


@final
class ReplicaJoin:
    """One route's contributions of `num_replicas` replicas, from `first_step` on."""

    def __init__(self, num_replicas: int, combine: Combine, *, first_step: int = 0) -> None:
        self._num_replicas, self._combine = num_replicas, combine
        self._next_step = [first_step] * num_replicas
        self._waiting: dict[int, dict[int, Sequence[Array]]] = {}

    def add(self, replica: int | None, arrays: Sequence[Array]) -> Joined:
        """Take the contribution of `replica`, or of all replicas (None), to the next step."""
        if replica is None:
            if self._waiting:
                raise ProtocolError(f"a whole contribution while replicas wait: {self.missing()}")
            step = max(self._next_step)
            self._next_step = [step + 1] * self._num_replicas
            return Joined(step, True, list(arrays))
        step = self._next_step[replica]
        self._next_step[replica] += 1
        present = self._waiting.setdefault(step, {})
        is_first = not present
        present[replica] = arrays
        if len(present) < self._num_replicas:
            return Joined(step, is_first, None)
        del self._waiting[step]
        return Joined(step, is_first, self._combine([present[r] for r in sorted(present)]))

    def missing(self) -> dict[int, list[int]]:
        """By step that some replicas have contributed to: those that have not."""
        return {
            step: [r for r in range(self._num_replicas) if r not in present]
            for step, present in self._waiting.items()
        }


def summing(dtype: str) -> Combine:
    """Adds the arrays up; half precision is summed in float32 and rounded once."""

    def combine(replicas: Sequence[Sequence[Array]]) -> list[Array]:
        return [_sum(shares, dtype) for shares in zip(*replicas, strict=True)]

    return combine


def _sum(shares: Sequence[Array], dtype: str) -> Array:
    wire, shape = wire_dtype(dtype), np.shape(shares[0])
    flat = [np.ascontiguousarray(share).reshape(-1).view(wire) for share in shares]
    total = widen(flat[0].view(np.uint8).data, dtype).copy()
    with np.errstate(over="ignore", invalid="ignore"):  # Loss scaling expects both.
        for share in flat[1:]:
            np.add(total, widen(share.view(np.uint8).data, dtype), out=total)
    return narrow(total, dtype).reshape(shape)


def stacking(replicas: Sequence[Sequence[Array]]) -> list[Array]:
    """Puts the rows of all replicas under one another."""
    return [np.concatenate(shares, axis=0) for shares in zip(*replicas, strict=True)]
