"""Values that a program or a layer reduces by itself, over all replicas of all workers.

Gradients are not here: they have a plan. A value goes by the place in the program that asks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.values.gathers import Gatherings
from poseidon_tf.strategy.values.sums import ValueSums

_SUMMABLE = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64"})


@final
class Reductions:
    """The reductions of one worker among others."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._num_replicas = worker.num_workers * worker.num_replicas
        self._sums = ValueSums(worker, "all_reduce")
        self._gatherings = Gatherings(worker)
        self._local = threading.local()

    @contextlib.contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Within: nothing is reduced, since only the shapes of the results count."""
        self._local.shapes_only = True
        try:
            yield
        finally:
            self._local.shapes_only = False

    def reduce(self, reduce_op: Any, value: Any) -> Any:
        """One value: a replica's in a replica, this worker's replicas' (`PerReplica`) elsewhere.

        Elsewhere, any other value stands for each of this worker's replicas. Sparse rows stay
        sparse: those of all replicas, in the order of the replicas' ids.
        """
        own = joined_replicas(value)
        if self._only_shapes_count():
            return value.values[0] if isinstance(value, tf_internals.PerReplica) else own
        dtype = own.dtype.name
        if dtype not in _SUMMABLE:
            raise ConfigError(
                f"all_reduce of a {dtype} tensor: only {', '.join(sorted(_SUMMABLE))} can be summed"
            )
        is_mean = reduce_op == tf.distribute.ReduceOp.MEAN
        if isinstance(own, tf.IndexedSlices):
            rows = self._gatherings.gather_rows(own)
            return self._divided(rows, value) if is_mean else rows
        total = tf.reshape(self._sums.sum(own, self._sums.site()), tf.shape(own))
        total.set_shape(own.shape)
        return self._divided(total, value) if is_mean else total

    def first(self, value: Any) -> tf.Tensor:
        """Rank 0's `value`, on all workers.

        Raises:
          ConfigError: it is no number and no bool.
        """
        own = tf.convert_to_tensor(value)
        if self._only_shapes_count():
            return own
        is_whole = own.dtype.is_integer or own.dtype.is_bool
        sent = own if own.dtype.name in _SUMMABLE or not is_whole else tf.cast(own, tf.int64)
        if sent.dtype.name not in _SUMMABLE:
            raise ConfigError(
                f"a {own.dtype.name} variable with aggregation ONLY_FIRST_REPLICA is assigned in a "
                "replica: only numbers and bool can be sent; assign it outside of strategy.run"
            )
        share = sent if self._worker.rank == 0 else tf.zeros_like(sent)
        total = tf.reshape(self._sums.sum(share, self._sums.site()), tf.shape(own))
        total.set_shape(own.shape)
        return tf.cast(total, own.dtype)

    def gather(self, value: Any, axis: int | tf.Tensor) -> tf.Tensor:
        """What all replicas hold, joined along `axis`; see `Gatherings.gather`."""
        if self._only_shapes_count():
            return self._gatherings.own_part(value, axis)
        return self._gatherings.gather(value, axis)

    def read(self, reduce_op: Any, variable: Any) -> tf.Tensor:
        """A metric's variable. A lone read must wait for nobody: it gives this worker's value."""
        components = tf_internals.components(variable)
        if self._only_shapes_count():
            return components[0].read_value()
        is_mean = reduce_op == tf.distribute.ReduceOp.MEAN
        own = components[0].read_value()
        if len(components) > 1:
            own = tf.add_n([own, *(each.read_value() for each in components[1:])])
        return tf.cast(own / len(components), own.dtype) if is_mean else own

    def _divided(self, total: Any, value: Any) -> Any:
        """The mean of what was `value` on each replica; of integers in float64, as TensorFlow's."""
        is_of_replica = isinstance(value, tf_internals.PerReplica) or tf_internals.is_in_replica()
        count = self._num_replicas if is_of_replica else self._worker.num_workers
        if isinstance(total, tf.IndexedSlices):
            return tf.IndexedSlices(total.values / count, total.indices, total.dense_shape)
        return total / count

    def _only_shapes_count(self) -> bool:
        """Whether nothing travels, since what is traced now never runs.

        Raises:
          ConfigError: it runs in a session of TensorFlow 1.
        """
        if tf_internals.is_session_graph():
            raise ConfigError(
                "poseidon_tf sums and gathers over the workers in eager mode and in tf.function, "
                "not in a tf.Graph that a session runs; make a tf.function of it"
            )
        is_for_shapes: bool = getattr(self._local, "shapes_only", False)
        return is_for_shapes or not tf_internals.is_tracing_for_real()


def of_each_replica(value: Any, num_replicas: int) -> Any:
    """`value` of this worker's replicas; one and the same tensor that all bring counts for each.

    TensorFlow makes a single value of it. Traced replicas contribute one by one, and so count each.
    """
    if num_replicas == 1 or not is_shared(value):
        return value
    return tf_internals.PerReplica([value] * num_replicas)


def is_shared(value: Any) -> bool:
    """Whether `value` is a tensor, or rows of one, and not one for each replica."""
    if isinstance(value, tf.distribute.DistributedValues):
        return False
    return isinstance(value, tf.IndexedSlices) or bool(tf.is_tensor(value))


def joined_replicas(value: Any) -> Any:
    """The sum of a `PerReplica` over this worker's replicas; sparse rows under one another."""
    if not isinstance(value, tf_internals.PerReplica):
        return value if isinstance(value, tf.IndexedSlices) else tf.convert_to_tensor(value)
    shares: Sequence[Any] = value.values
    if not isinstance(shares[0], tf.IndexedSlices):
        return tf.add_n([tf.convert_to_tensor(share) for share in shares])
    return tf.IndexedSlices(
        tf.concat([share.values for share in shares], axis=0),
        tf.concat([share.indices for share in shares], axis=0),
        shares[0].dense_shape,
    )
