"""Sums over the workers of values that have no plan: each goes by the place that asks for it."""

from __future__ import annotations

from typing import final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.bridge import GraphRoute
from poseidon_tf.strategy.call_sites import CallSites
from poseidon_tf.sync.session import Deliver, Route
from poseidon_tf.sync.worker import Worker


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
        """The flat sum of all workers' `own`, of any size but the same on all of them."""
        dtype = own.dtype.name
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
                [own.dtype],
                open_route,
                lambda: self._worker.session.failure,
                num_replicas=self._worker.num_replicas,
            )
        (total,) = route.exchange([own])
        return total
