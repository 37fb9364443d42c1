"""Rows of all workers in one order: numbers, text, ragged and sparse ones.

Everything comes down to bytes that go to known places: every worker knows first how many bytes
each row of the whole has, takes memory for the whole, and fills it with what arrives. Of text and
of ragged rows the lengths travel before, as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.session.gathers import Places, Take
from poseidon_tf.wire.dtypes import Array


class GatherStream(Protocol):
    """`Worker.gather_stream`, which knows already what it is for."""

    def __call__(
        self, num_bytes: int, content: Iterable[bytes | memoryview], take: Take
    ) -> None: ...


@final
@dataclass(frozen=True)
class Order:
    """Where the rows of each worker are in the whole.

    Attributes:
      positions: by rank, of each of its rows; int64.
      num_rows: of the whole.
    """

    positions: Sequence[Array]
    num_rows: int

    @classmethod
    def of(cls, shares: Sequence[int], arrange: Callable[[Sequence[Array]], Array]) -> Order:
        """That of workers with so many rows, of which `arrange` puts the numbers in order.

        Args:
          arrange: from the numbers of each worker's rows, counted over all workers, to all of
            them in order.
        """
        ends = np.cumsum(shares)
        numbers = np.split(np.arange(int(ends[-1])), ends[:-1])
        positions = np.empty(int(ends[-1]), np.int64)
        positions[arrange(numbers)] = np.arange(len(positions))
        return cls([positions[each] for each in numbers], len(positions))

    def within(self, lengths: Array) -> Order:
        """That of the parts of the rows, of which each row of the whole has `lengths`."""
        begins = np.cumsum(lengths) - lengths
        positions = []
        for rows in self.positions:
            own = lengths[rows]
            inside = np.arange(int(own.sum())) - np.repeat(np.cumsum(own) - own, own)
            positions.append(np.repeat(begins[rows], own) + inside)
        return Order(positions, int(lengths.sum()))

    def runs(self, rank: int) -> Iterator[tuple[int, int]]:
        """Where this worker's rows are, as (begin, end) of what lies together, in its order."""
        rows = self.positions[rank]
        if len(rows):
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            for begin, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
                yield int(rows[begin]), int(rows[end - 1]) + 1


def join(gather: GatherStream, own: Any, order: Order) -> Any:
    """The rows of all workers, as an object of the kind that `own` is.

    Args:
      own: this worker's: an array of numbers, or of `bytes` objects, a RaggedTensor or a
        SparseTensor. Those of all workers have rows of the same shape and dtype.

    Raises:
      ConfigError: it holds objects that are not `bytes`.
    """
    if isinstance(own, tf.RaggedTensor):
        return _join_ragged(gather, own, order)
    if isinstance(own, tf.SparseTensor):
        return _join_sparse(gather, own, order)
    return _join_text(gather, own, order) if own.dtype == object else _join(gather, own, order)


def _join(gather: GatherStream, own: Array, order: Order) -> Array:
    row_bytes = own.dtype.itemsize * int(np.prod(own.shape[1:], dtype=np.int64))
    content = np.ascontiguousarray(own).reshape(-1).view(np.uint8).data
    offsets = np.arange(order.num_rows + 1) * row_bytes
    whole = _join_bytes(gather, len(content), [content], offsets, order)
    return whole.view(own.dtype).reshape(order.num_rows, *own.shape[1:])


def _join_text(gather: GatherStream, own: Array, order: Order) -> Array:
    if not all(isinstance(each, bytes) for each in own.flat):
        raise ConfigError("only numbers and text can be sent from worker to worker, not objects")
    own_lengths = np.fromiter(map(len, own.flat), np.int64, own.size).reshape(own.shape)
    lengths = _join(gather, own_lengths, order)
    ends = np.cumsum(lengths)
    by_row = lengths.reshape(order.num_rows, -1).sum(axis=1) if lengths.size else lengths[:0]
    offsets = np.concatenate([[0], np.cumsum(by_row)])
    content = _join_bytes(gather, int(own_lengths.sum()), own.flat, offsets, order)
    whole = np.empty(lengths.size, object)
    for at, (end, length) in enumerate(zip(ends.tolist(), lengths.flat, strict=True)):
        whole[at] = content[end - length : end].tobytes()
    return whole.reshape(lengths.shape)


def _join_bytes(
    gather: GatherStream,
    num_bytes: int,
    content: Iterable[bytes | memoryview],
    offsets: Array,
    order: Order,
) -> Array:
    """The bytes of all rows, of which row i of the whole begins at `offsets[i]`."""
    whole = np.empty(int(offsets[-1]) if len(offsets) else 0, np.uint8)

    def places(rank: int) -> Iterator[memoryview]:
        for begin, end in order.runs(rank):
            yield whole[offsets[begin] : offsets[end]].data

    by_rank = [Places(places(rank)) for rank in range(len(order.positions))]
    gather(num_bytes, content, lambda rank, piece: by_rank[rank].fill(piece))
    for each in by_rank:
        each.finish()
    return whole


def _join_ragged(gather: GatherStream, own: tf.RaggedTensor, order: Order) -> tf.RaggedTensor:
    nested = []
    for own_lengths in own.nested_row_lengths():
        lengths = _join(gather, own_lengths.numpy().astype(np.int64), order)
        order = order.within(lengths)
        nested.append(lengths)
    values = join(gather, own.flat_values.numpy(), order)
    whole = tf.RaggedTensor.from_nested_row_lengths(
        tf.constant(values, own.dtype), nested, validate=False
    )
    return whole.with_row_splits_dtype(own.row_splits.dtype)


def _join_sparse(gather: GatherStream, own: tf.SparseTensor, order: Order) -> tf.SparseTensor:
    """`own.dense_shape` is that of the whole but for the rows."""
    own = tf.sparse.reorder(own)
    indices, shape = own.indices.numpy(), own.dense_shape.numpy()
    counts = _join(gather, np.bincount(indices[:, 0], minlength=shape[0]).astype(np.int64), order)
    inner = order.within(counts)
    values = join(gather, own.values.numpy(), inner)
    others = _join(gather, np.ascontiguousarray(indices[:, 1:]), inner)
    rows = np.repeat(np.arange(order.num_rows), counts)
    return tf.SparseTensor(
        np.concatenate([rows[:, np.newaxis], others], axis=1),
        tf.constant(values, own.dtype),
        [order.num_rows, *shape[1:]],
    )
