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
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.bridge import GraphRoute
from poseidon_tf.strategy.call_sites import CallSites
from poseidon_tf.sync.session import Deliver, Route
from poseidon_tf.sync.worker import Worker

_SUMMABLE = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64"})


@final
class Reductions:
    """The reductions of one worker among others.

    Args:
      num_replicas: of all workers together.
    """

    def __init__(self, worker: Worker, *, num_replicas: int) -> None:
        self._worker, self._num_replicas = worker, num_replicas
        self._sites = CallSites()
        self._routes: dict[tuple[str, str], GraphRoute] = {}
        self._local = threading.local()

    @contextlib.contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Within: nothing is reduced, since only the shapes of the results count."""
        self._local.shapes_only = True
        try:
            yield
        finally:
            self._local.shapes_only = False

    def reduce(self, reduce_op: Any, value: Any) -> tf.Tensor:
        """One value: a replica's in a replica, this worker's replicas' (`PerReplica`) elsewhere."""
        own = joined_replicas(value)
        if self._is_for_shapes or not tf_internals.is_tracing_for_real():
            return value.values[0] if isinstance(value, tf_internals.PerReplica) else own
        dtype = own.dtype.name
        if dtype not in _SUMMABLE:
            raise ConfigError(
                f"all_reduce of a {dtype} tensor: only {', '.join(sorted(_SUMMABLE))} can be summed"
            )
        (total,) = self._route(dtype, own.dtype).exchange([own])
        total = tf.reshape(total, tf.shape(own))
        total.set_shape(own.shape)
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            total = tf.cast(total / self._num_replicas, own.dtype)
        return total

    def read(self, reduce_op: Any, variable: Any) -> tf.Tensor:
        """A metric's variable. A lone read must wait for nobody: it gives this worker's value."""
        components = tf_internals.components(variable)
        if self._is_for_shapes or not tf_internals.is_tracing_for_real():
            return components[0].read_value()
        is_mean = reduce_op == tf.distribute.ReduceOp.MEAN
        own = components[0].read_value()
        if len(components) > 1:
            own = tf.add_n([own, *(each.read_value() for each in components[1:])])
        return tf.cast(own / len(components), own.dtype) if is_mean else own

    def _route(self, dtype: str, tf_dtype: tf.DType) -> GraphRoute:
        graph = None if tf.executing_eagerly() else tf_internals.graph()
        site = self._sites.name(graph, tf_internals.replica_id())
        name = f"all_reduce/{site}"
        route = self._routes.get((name, dtype))
        if route is None:

            def open_route(deliver: Deliver) -> Route:
                return self._worker.open_sum(
                    f"{name}/{dtype}",
                    dtype,
                    None,
                    num_elements=0,
                    purpose="all_reduce",
                    deliver=deliver,
                )

            route = self._routes[name, dtype] = GraphRoute(
                name,
                [tf_dtype],
                open_route,
                lambda: self._worker.session.failure,
                num_replicas=self._worker.num_replicas,
            )
        return route

    @property
    def _is_for_shapes(self) -> bool:
        return getattr(self._local, "shapes_only", False)


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
