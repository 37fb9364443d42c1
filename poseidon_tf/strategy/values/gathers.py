"""Gathers a value of every replica of every worker along one axis, in the order of their ids.

Two sums do it; of text, two for its lengths and two for its bytes. The first makes a table of
everybody's shapes. In the second every worker contributes zeros around its own part of the whole.
What is added up is bits, as integers, so the result has the very bits that each replica gave.
"""

from __future__ import annotations

from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.values.sums import ValueSums

# TensorFlow transposes no more.
_MOST_DIMENSIONS = 8
# By size of an element: the integers that its bits are added up as. The servers know no smaller.
_WORDS = {1: tf.int32, 2: tf.int32, 4: tf.int32, 8: tf.int64, 16: tf.int64}
_GATHERABLE = frozenset(
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "complex64 complex128".split()
)


@final
class Gatherings:
    """The gatherings of one worker among others."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sums = ValueSums(worker, "gather")

    def gather(self, value: Any, axis: int | tf.Tensor) -> tf.Tensor:
        """What all replicas hold, joined along `axis`; the same on all workers.

        Args:
          value: this worker's replicas' tensors of rank 1 or more; one tensor stands for each of
            them. Their lengths along `axis` may differ, their other dimensions may not.

        Raises:
          ConfigError: it has another dtype than a number, bool or string.
          ValueError: it is a scalar, or has no such axis.
          tf.errors.InvalidArgumentError: the workers' tensors do not fit together. All workers
            raise it.
        """
        own = self.own_part(value, axis)
        if own.dtype == tf.string:
            return self._gather_text(own, axis)
        return self._gather_own(own, axis)

    def gather_rows(self, slices: tf.IndexedSlices) -> tf.IndexedSlices:
        """This worker's rows and those of all others under one another, and their indices."""
        return tf.IndexedSlices(
            self._gather_own(slices.values, 0),
            self._gather_own(slices.indices, 0),
            slices.dense_shape,
        )

    def _gather_own(self, own: tf.Tensor, axis: int | tf.Tensor) -> tf.Tensor:
        if own.dtype.name not in _GATHERABLE:
            raise ConfigError(
                f"gather of a {own.dtype.name} tensor: only numbers, bool and text can be "
                "gathered; turn it into one of them before"
            )
        site = self._sums.site()
        order = _with_axis_first(axis, tf.rank(own))
        rows = tf.transpose(own, order)
        row_shape = tf.shape(rows, tf.int64)[1:]
        words = as_words(rows)
        lengths = self._lengths(rows, site)
        row_words = tf.reduce_prod(row_shape) * max(own.dtype.size // 8, 1)
        before = tf.reduce_sum(lengths[: self._worker.rank]) * row_words
        after = tf.reduce_sum(lengths[self._worker.rank + 1 :]) * row_words
        total = self._sums.sum(tf.pad(words, [[before, after]]), f"{site}/values")
        shape = tf.concat([[tf.reduce_sum(lengths)], row_shape], axis=0)
        gathered = from_words(total, shape, own.dtype)
        gathered = tf.transpose(gathered, tf.math.invert_permutation(order))
        gathered.set_shape(_any_length(own.shape, axis))
        return gathered

    def _gather_text(self, own: tf.Tensor, axis: int | tf.Tensor) -> tf.Tensor:
        order = _with_axis_first(axis, tf.rank(own))
        lengths = self._gather_own(tf.cast(tf.strings.length(own), tf.int64), axis)
        flat = tf.reshape(tf.transpose(own, order), [-1])
        content = self._gather_own(tf.io.decode_raw(tf.strings.reduce_join(flat), tf.uint8), 0)
        rows = tf.transpose(lengths, order)
        texts = tf.reshape(cut_text(content, tf.reshape(rows, [-1])), tf.shape(rows))
        gathered = tf.transpose(texts, tf.math.invert_permutation(order))
        gathered.set_shape(_any_length(own.shape, axis))
        return gathered

    def own_part(self, value: Any, axis: int | tf.Tensor) -> tf.Tensor:
        """What this worker's replicas hold, joined along `axis`; see `gather`."""
        if isinstance(value, tf.distribute.DistributedValues):
            shares = [tf.convert_to_tensor(share) for share in value.values]
        else:
            shares = [tf.convert_to_tensor(value)] * self._worker.num_replicas
        rank, at = shares[0].shape.rank, tf.get_static_value(axis)
        if rank is not None and (rank == 0 or at is not None and not -rank <= at < rank):
            raise ValueError(
                f"gather along axis {at} of a tensor of shape {shares[0].shape}, which has "
                f"{rank} dimensions"
            )
        if rank is not None and rank > _MOST_DIMENSIONS:
            raise ValueError(f"gather of a tensor of {rank} dimensions: at most {_MOST_DIMENSIONS}")
        return shares[0] if len(shares) == 1 else tf.concat(shares, axis)

    def _lengths(self, rows: tf.Tensor, site: str) -> tf.Tensor:
        """By worker, how many rows it has; int64. The rows themselves must be of one shape."""
        rank, num_workers = self._worker.rank, self._worker.num_workers
        width = _MOST_DIMENSIONS + 1
        shape = tf.shape(rows, tf.int64)
        line = tf.concat([[tf.size(shape, tf.int64)], shape], axis=0)
        before, after = rank * width, (num_workers - rank) * width - tf.size(line)
        table = self._sums.sum(tf.pad(line, [[before, after]]), f"{site}/shapes")
        table = tf.reshape(table, [num_workers, width])
        lengths, others = table[:, 1], tf.concat([table[:, :1], table[:, 2:]], axis=1)
        # Everybody has the same table, so either all go on or nobody does.
        with tf.control_dependencies(
            [
                tf.debugging.assert_equal(
                    others,
                    others[:1],
                    f"{site}: the workers' tensors differ in more than their length along the "
                    "axis that is gathered; by worker: dimensions, this length, the other lengths",
                    summarize=-1,
                )
            ]
        ):
            return tf.identity(lengths)


def as_words(tensor: tf.Tensor) -> tf.Tensor:
    """The bits of `tensor` as a flat vector of int32 or int64."""
    flat, words = tf.reshape(tensor, [-1]), _WORDS[tensor.dtype.size]
    if tensor.dtype == tf.bool:
        return tf.cast(flat, words)
    narrow = {1: tf.int8, 2: tf.int16}.get(tensor.dtype.size, words)
    return tf.cast(tf.reshape(tf.bitcast(flat, narrow), [-1]), words)


def from_words(words: tf.Tensor, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The tensor of `shape` and `dtype` whose bits are `words`; undoes `as_words`."""
    if dtype == tf.bool:
        return tf.reshape(tf.cast(words, tf.bool), shape)
    narrow = tf.cast(words, {1: tf.int8, 2: tf.int16}.get(dtype.size, words.dtype))
    if dtype.size == 16:
        narrow = tf.reshape(narrow, [-1, 2])  # Two words make one element.
    return tf.reshape(tf.bitcast(narrow, dtype), shape)


def cut_text(content: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """The strings that have these lengths and lie end to end in `content`, as uint8."""
    characters = tf.gather([bytes([value]) for value in range(256)], tf.cast(content, tf.int32))
    num_strings = tf.size(lengths, tf.int64)
    owners = tf.repeat(tf.range(num_strings), lengths)
    return tf.strings.unsorted_segment_join(characters, owners, num_strings)


def _with_axis_first(axis: int | tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
    axis = tf.math.floormod(tf.cast(axis, tf.int32), rank)
    return tf.concat([[axis], tf.range(axis), tf.range(axis + 1, rank)], axis=0)


def _any_length(shape: tf.TensorShape, axis: int | tf.Tensor) -> tf.TensorShape:
    """`shape` with any length along `axis`."""
    at = tf.get_static_value(axis)
    if shape.rank is None or at is None:
        return tf.TensorShape([None] * shape.rank if shape.rank is not None else None)
    return tf.TensorShape([None if d == at % shape.rank else n for d, n in enumerate(shape)])
