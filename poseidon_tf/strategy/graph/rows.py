"""How many rows a factor or a sparse gradient has, and what a sparse gradient's rows are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from poseidon_tf.strategy.graph.products import source_of

OPEN_ROWS = "its sequences have no fixed length when the step is traced"


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse gradient: which rows of the table, and what is to be added to each.

    Args:
      parts: one after another the values, rows of any shape; several where a table is looked up
        several times; narrower than the gradient where the step computes so.
    """

    parts: tuple[tf.Tensor, ...]
    indices: tf.Tensor
    num_columns: int

    @property
    def dtype(self) -> tf.DType:
        return self.parts[0].dtype

    def matrix(self) -> tf.Tensor:
        """The values, of shape (K, num_columns)."""
        return tf.concat([tf.reshape(part, [-1, self.num_columns]) for part in self.parts], axis=0)

    def num_rows(self, batch_size: int | None) -> int | None:
        """K, where the step or the batch tells."""
        counts = [rows_of(part, self.num_columns, batch_size) for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def sparse_rows(gradient: tf.IndexedSlices, table: tf.Variable) -> SparseRows:
    """The rows of `gradient` in the type in which the step computes them.

    A wider type that they are cast to afterwards holds nothing more.
    """
    num_columns = math.prod(table.shape[1:])
    parts = [gradient.values]
    if hasattr(gradient.values, "graph"):
        op = source_of(gradient.values).op
        if op.type == "ConcatV2" and tf.get_static_value(op.inputs[-1]) == 0:
            parts = list(op.inputs[:-1])
        narrow = [source_of(part, through_casts=True) for part in parts]
        if len({part.dtype for part in narrow}) == 1:
            parts = narrow
    return SparseRows(tuple(parts), gradient.indices, num_columns)


def rows_of(tensor: tf.Tensor, num_columns: int, batch_size: int | None) -> int | None:
    """K: the tensor's own rows where they are static, else those that a batch makes of it.

    Args:
      num_columns: numbers in one row; the tensor may have more dimensions than two.
      batch_size: rows of one worker's batch, where the graph leaves them open.
    """
    while not tensor.shape.is_fully_defined():
        op = tensor.op
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
