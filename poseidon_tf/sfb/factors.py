"""What workers broadcast, as arrays: packed for the wire, unpacked, and joined in rank order.

Every worker has K rows of some arrays side by side: a kernel's two factors, or a table's touched
rows and their indices. Of a kernel a worker may also send the gradient itself, whole, together with
those of its biases: another program may compute it than the one that was planned.

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
from typing import NamedTuple

import numpy as np

from poseidon_tf.wire.dtypes import Array, wire_dtype


class Columns(NamedTuple):
    """One of the arrays: K rows of `width` numbers each."""

    width: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        return self.width * wire_dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpec:
    """The arrays of one unit, in the order in which they are packed; K is free.

    Args:
      num_indexed: the first array is indices, each from 0 up to, not including, this; None if
        it is not.
      whole: an array behind them of any number of rows, each a whole gradient that is added to
        the product; None where there is none.
    """

    name: str
    arrays: tuple[Columns, ...]
    num_indexed: int | None = None
    whole: Columns | None = None

    @classmethod
    def factors(
        cls, name: str, *, M: int, N: int, dtype: str, whole: Columns | None = None
    ) -> RowSpec:
        """The factors of one kernel: U is K x M, V is K x N, both of `dtype`.

        Args:
          whole: the kernel's gradient and its biases', laid end to end.
        """
        return cls(name=name, arrays=(Columns(M, dtype), Columns(N, dtype)), whole=whole)

    @classmethod
    def sparse(
        cls, name: str, *, num_rows: int, width: int, dtype: str, index_dtype: str
    ) -> RowSpec:
        """The indices and values of touched rows of a table of `num_rows` x `width` numbers."""
        arrays = (Columns(1, index_dtype), Columns(width, dtype))
        return cls(name=name, arrays=arrays, num_indexed=num_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all arrays."""
        return sum(columns.row_bytes for columns in self.arrays)

    @property
    def dense_bytes(self) -> int:
        """Of the gradients that the factors give, the kernel's and its biases'; 0 for rows."""
        if self.whole is not None:
            return self.whole.row_bytes
        if self.num_indexed is not None:
            return 0
        return self.arrays[0].width * self.arrays[-1].row_bytes

    def num_bytes(self, rows: int) -> int:
        """Bytes of all arrays of `rows` rows, with nothing whole behind them."""
        return rows * self.row_bytes

    def num_whole(self, rows: int, total: int) -> int | None:
        """Whole gradients in `total` bytes, behind `rows` rows; None if the bytes do not fit."""
        left = total - self.num_bytes(rows)
        if self.whole is None:
            return 0 if left == 0 else None
        count, rest = divmod(left, self.whole.row_bytes)
        return None if rest or count < 0 else count

    def fault(self, payload: memoryview | bytes | bytearray, rows: int) -> str:
        """Which index is of no row of the table; empty if none is."""
        if self.num_indexed is None or rows == 0:
            return ""
        indices: Array = np.frombuffer(payload, wire_dtype(self.arrays[0].dtype), rows)
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest >= 0 and highest < self.num_indexed:
            return ""
        wrong = lowest if lowest < 0 else highest
        return f"{self.name!r} has rows 0..{self.num_indexed - 1}, got a gradient of row {wrong}"


def pack(*arrays: Array) -> bytes:
    """The bytes of the arrays one after another, each row by row."""
    # As bytes: arrays of a type that numpy does not know, such as bfloat16, offer no buffer.
    return b"".join(np.ascontiguousarray(each).reshape(-1).view(np.uint8).data for each in arrays)


def unpack(payload: memoryview | bytes | bytearray, spec: RowSpec, rows: int) -> tuple[Array, ...]:
    """The arrays, of `rows` rows each, and what is whole, as views of a `payload` that fits."""
    parts = [(columns, rows) for columns in spec.arrays]
    if spec.whole is not None:
        num_whole = spec.num_whole(rows, len(payload))
        assert num_whole is not None, f"{spec.name!r}: {len(payload)} bytes of {rows} rows"
        parts.append((spec.whole, num_whole))
    arrays = []
    begin = 0
    for columns, length in parts:
        values: Array = np.frombuffer(
            payload, wire_dtype(columns.dtype), length * columns.width, offset=begin
        )
        arrays.append(values.reshape(length, columns.width))
        begin += length * columns.row_bytes
    return tuple(arrays)


def joined(
    contributions: Sequence[tuple[Array, ...]], into: Sequence[Array] | None = None
) -> tuple[Array, ...]:
    """The arrays of all workers under one another, in the order given: that of their ranks.

    Args:
      into: where they go; new memory if None.
    """
    by_array = list(zip(*contributions, strict=True))
    places = [None] * len(by_array) if into is None else into
    return tuple(
        np.concatenate(parts, out=place) for parts, place in zip(by_array, places, strict=True)
    )


def product(U_KM: Array, V_KN: Array) -> Array:
    """``grad[m, n] = sum_k U[k, m] * V[k, n]``; what the training step computes on its device."""
    grad_MN: Array = U_KM.T @ V_KN
    return grad_MN
