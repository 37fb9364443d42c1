"""Sums over the workers of values that have no plan: each goes by the place that asks for it."""

from __future__ import annotations

from typing import Any, final

import tensorflow as tf

from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.graph.route import GraphRoute
from poseidon_tf.strategy.values.call_sites import CallSites

# Of one sum; a server takes more, but nothing else passes it meanwhile.
_PIECE_BYTES = 16 * 1024 * 1024


@final
class ValueSums:
    """Routes through the servers, opened where the program first comes by.

    Args:
      kind: what the values are for; sums of different kinds never meet.
    """

    def __init__(self, worker: Worker, kind: str) -> None:
        self._worker, self._kind = worker, kind
        self._sites = CallSites()
        self._routes: dict[str, GraphRoute] = {}

    def site(self) -> str:
        """The name of the calling place, to be asked for once per value."""
        graph = None if tf.executing_eagerly() else tf_internals.graph()
        if self._worker.num_replicas == 1 or tf_internals.is_in_replica():
            return self._sites.name(graph, tf_internals.replica_id())
        # On behalf of all replicas: it must not count as the first replica's.
        return f"all/{self._sites.name(graph, -1)}"

    def sum(self, own: tf.Tensor, site: str) -> tf.Tensor:
        """The flat sum of all workers' `own`, of any size but the same on all of them.

        What is long goes in pieces, each a step of the same route.
        """
        route = self._route(own.dtype, site)
        most = _PIECE_BYTES // own.dtype.size
        size = own.shape.num_elements()
        if size is not None and size <= most:
            (total,) = route.exchange([own])
            return total
        flat = tf.reshape(tf.stop_gradient(own), [-1])
        if tf.executing_eagerly():
            begins = range(0, len(flat), most)
            return tf.concat([route.exchange([flat[at : at + most]])[0] for at in begins], axis=0)
        return _sum_in_graph(route, flat, most)

    def _route(self, tensor_dtype: tf.DType, site: str) -> GraphRoute:
        dtype = tensor_dtype.name
        name = f"{self._kind}/{site}"
        full_name = f"{name}/{dtype}"
        route = self._routes.get(full_name)
        if route is None:

            def open_route(deliver: Deliver) -> Route:
                return self._worker.open_sum(
                    full_name,
                    dtype,
                    None,
                    num_elements=0,
                    purpose="all_reduce",
                    deliver=deliver,
                )

            route = self._routes[full_name] = GraphRoute(
                name,
                [tensor_dtype],
                open_route,
                lambda: self._worker.session.failure,
                num_replicas=self._worker.num_replicas,
            )
        return route


def _sum_in_graph(route: GraphRoute, flat: tf.Tensor, most: int) -> tf.Tensor:
    """The sum of `flat`, of whatever size it is when the graph runs, in pieces of `most`."""
    size = tf.size(flat, tf.int64)
    # One piece at least: workers meet where a value is empty, too.
    num_pieces = tf.maximum((size + most - 1) // most, 1)
    totals = tf.TensorArray(
        flat.dtype, size=0, dynamic_size=True, infer_shape=False, element_shape=[None]
    )

    def sum_one(number: tf.Tensor, totals: Any) -> tuple[tf.Tensor, Any]:
        (total,) = route.exchange([flat[number * most : (number + 1) * most]])
        # Pushes must leave in order: the next one is not cut before this sum is there.
        with tf.control_dependencies([total]):
            following = number + 1
        return following, totals.write(tf.cast(number, tf.int32), total)

    _, totals = tf.while_loop(
        lambda number, totals: number < num_pieces,
        sum_one,
        (tf.constant(0, tf.int64), totals),
        parallel_iterations=1,
    )
    return totals.concat()
