"""Sufficient factors as arrays: packed for the wire, unpacked, and joined in rank order.

Shape suffixes: K rows of one worker, M rows and N columns of the kernel.
    U_KM    the dense layer's input
    V_KN    the gradient of its output
    grad_MN = U_KM^T V_KN, summed over the workers by joining their rows
Reference: Xie et al., "Lighter-Communication Distributed Machine Learning via Sufficient Factor
Broadcasting", UAI 2016; Zhang et al., "Poseidon", USENIX ATC 2017, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from poseidon_tf.wire.dtypes import Array, wire_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorSpec:
    """The factors of one kernel: U is K x M, V is K x N, both of `dtype`; K is free."""

    name: str
    M: int
    N: int
    dtype: str

    def num_bytes(self, rows: int) -> int:
        """Bytes of both factors of `rows` rows."""
        return rows * (self.M + self.N) * wire_dtype(self.dtype).itemsize


def pack(U_KM: Array, V_KN: Array) -> bytes:
    """The bytes of U followed by those of V, row by row."""
    # As bytes: arrays of a type that numpy does not know, such as bfloat16, offer no buffer.
    return b"".join(
        np.ascontiguousarray(factor).reshape(-1).view(np.uint8).data for factor in (U_KM, V_KN)
    )


def unpack(
    payload: memoryview | bytes | bytearray, spec: FactorSpec, rows: int
) -> tuple[Array, Array]:
    """U and V as views of `payload`, which holds `spec.num_bytes(rows)` bytes."""
    values: Array = np.frombuffer(payload, wire_dtype(spec.dtype))
    return (
        values[: rows * spec.M].reshape(rows, spec.M),
        values[rows * spec.M :].reshape(rows, spec.N),
    )


def joined(
    factors: Sequence[tuple[Array, Array]], into: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """The factors of all workers under one another, in the order given: that of their ranks.

    Args:
      into: where U and V go; new memory if None.
    """
    U, V = into or (None, None)
    return (
        np.concatenate([U_KM for U_KM, _ in factors], out=U),
        np.concatenate([V_KN for _, V_KN in factors], out=V),
    )


def product(U_KM: Array, V_KN: Array) -> Array:
    """``grad[m, n] = sum_k U[k, m] * V[k, n]``; what the training step computes on its device."""
    grad_MN: Array = U_KM.T @ V_KN
    return grad_MN
