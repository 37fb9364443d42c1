"""How many rows a factor or a sparse gradient has, and what a sparse gradient's rows are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from poseidon_tf.strategy.graph_products import source_of

OPEN_ROWS = "its sequences have no fixed length when the step is traced"


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse gradient: which rows of the table, and what is to be added to each.

    Args:
      values: K rows of any shape; narrower than the gradient where the step computes so.
    """

    values: tf.Tensor
    indices: tf.Tensor
    num_columns: int

    @property
    def dtype(self) -> tf.DType:
        return self.values.dtype

    def matrix(self) -> tf.Tensor:
        """The values, of shape (K, num_columns)."""
        return tf.reshape(self.values, [-1, self.num_columns])


def sparse_rows(gradient: tf.IndexedSlices, table: tf.Variable) -> SparseRows:
    """The rows of `gradient` in the type in which the step computes them.

    A wider type that they are cast to afterwards holds nothing more.
    """
    values = gradient.values
    if hasattr(values, "graph"):
        narrow = source_of(values, through_casts=True)
        values = narrow if narrow.dtype != values.dtype else values
    return SparseRows(values, gradient.indices, math.prod(table.shape[1:]))


def rows_of(tensor: tf.Tensor, num_columns: int, batch_size: int | None) -> int | None:
    """K: the tensor's own rows where they are static, else those that a batch makes of it.

    Args:
      num_columns: numbers in one row; the tensor may have more dimensions than two.
      batch_size: rows of one worker's batch, where the graph leaves them open.
    """
    while not tensor.shape.is_fully_defined():
        op = tensor.op
        if op.type == "ConcatV2" and tf.get_static_value(op.inputs[-1]) == 0:
            parts = [rows_of(part, num_columns, batch_size) for part in op.inputs[:-1]]
            known = [part for part in parts if part is not None]
            return sum(known) if len(known) == len(parts) else None
        if op.type not in ("Identity", "Cast", "Reshape"):
            break
        tensor = op.inputs[0]
    if tensor.shape.is_fully_defined():
        # A worker's share of a partial batch may be empty.
        return max(1, int(math.prod(tensor.shape)) // num_columns)
    shape = tensor.shape
    if batch_size is None or not shape.rank or shape[0] is not None or None in shape[1:]:
        return None
    per_sample = int(math.prod(shape[1:]))
    return batch_size * per_sample // num_columns if per_sample % num_columns == 0 else None
