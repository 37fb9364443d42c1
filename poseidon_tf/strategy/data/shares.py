"""How many rows the calling replica's share of the batch has.

A share may be smaller than the others', or empty: the last batch of finite data is. Its rows are
the leading dimension of the first tensor, of rank 1 or more, that `Strategy.run` was given.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import tensorflow as tf

from poseidon_tf.strategy import tf_internals

Rows: TypeAlias = Any
"""An int where it is known when the step is traced, else an int64 scalar; None if unknown."""


@dataclass(frozen=True, slots=True)
class _Call:
    graph: Any  # In which the replica function was called; None in eager mode.
    rows: Rows


@final
class Shares:
    """Rows by thread: every replica has its own.

    Attributes:
      agreed_rows: of each dataset that all workers have distributed, the rows that every share
        of it has on every worker, None where they may change.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self.agreed_rows: set[int | None] = set()

    def counting(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn`, which a replica calls with its own values; within, `rows` knows their number."""

        @functools.wraps(fn)
        def counted(*args: Any, **kwargs: Any) -> Any:
            before = getattr(self._local, "call", None)
            graph = None if tf.executing_eagerly() else tf_internals.graph()
            self._local.call = _Call(graph, _rows_of(tf.nest.flatten((args, kwargs))))
            try:
                return fn(*args, **kwargs)
            finally:
                self._local.call = before

        return counted

    def rows(self) -> Rows:
        """Rows of this thread's replica; None where no tensor says."""
        call: _Call | None = getattr(self._local, "call", None)
        if call is None:
            return None
        here: Any = None if tf.executing_eagerly() else tf_internals.graph()
        while here is not call.graph and tf_internals.is_branch(here):
            here = here.outer_graph
        if here is call.graph:
            return call.rows
        # In a tf.function that the replica calls: it outlives this call, so its own arguments
        # count, not the tensors of whoever happens to trace it.
        with here.as_default():
            return _rows_of(tf_internals.arguments(here))

    def rows_to_check(self) -> Rows:
        """The rows, where there may be none: a number that is not 0 needs no check."""
        rows = self.rows()
        return None if isinstance(rows, int) and rows > 0 else rows


def _rows_of(leaves: Iterable[Any]) -> Rows:
    for leaf in leaves:
        if isinstance(leaf, tf.RaggedTensor):
            return leaf.nrows(out_type=tf.int64)
        if isinstance(leaf, tf.SparseTensor):
            return leaf.dense_shape[0]
        is_array = isinstance(leaf, np.ndarray) or (
            tf.is_tensor(leaf) and not isinstance(leaf, tf.Variable)
        )
        if not is_array or len(leaf.shape or "?") == 0:
            continue
        shape = tf.TensorShape(leaf.shape)
        if shape.rank == 0:
            continue
        if shape.rank is not None and shape[0] is not None:
            return int(shape[0])
        return tf.shape(leaf, out_type=tf.int64)[0]
    return None


def without_empty(rows: Rows, gradient: Any) -> Any:
    """`gradient`, or zeros where the share has no rows: a mean over none of them is NaN."""
    if rows is None or gradient is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        values = without_empty(rows, gradient.values)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where(tf.greater(rows, 0), gradient, tf.zeros([], gradient.dtype))
