"""Sums gradients over all replicas, once: for an optimizer, or before that for a tape."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.strategy.data.shares import Shares, without_empty
from poseidon_tf.strategy.gradients.exchange import GradientExchange, unique_names
from poseidon_tf.strategy.gradients.first_values import AgreedValues
from poseidon_tf.strategy.tape.marks import TapeMarks
from poseidon_tf.strategy.values.reductions import joined_replicas, of_each_replica


@final
class GradientSums:
    """The sums that the replicas of one worker are given.

    Args:
      marks: know which gradients a tape has summed.
      num_replicas: of this worker.
    """

    def __init__(
        self,
        exchange: GradientExchange,
        shares: Shares,
        first_values: AgreedValues,
        marks: TapeMarks,
        *,
        num_replicas: int,
    ) -> None:
        self._exchange, self._shares, self._marks = exchange, shares, marks
        self._first_values, self._num_replicas = first_values, num_replicas
        self._local = threading.local()

    def of_optimizer(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> list[Any]:
        """Sums of what `optimizer` was given, over all replicas; of sums, these themselves.

        Raises:
          PlanError: the workers' models or options differ, or it cannot be told what is a sum.
        """
        if self._marks.are_sums(unique_names(variables), gradients, variables):
            self._first_values.agree_on_optimizer(optimizer)
            return list(gradients)
        return self.over_all(optimizer, gradients, variables)

    def over_all(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> list[Any]:
        """The local `gradients`, of this optimizer or of None, summed over all replicas."""
        if not self.replicas_meet:
            return self._exchange.sum(optimizer, gradients, variables)
        rows = self._shares.rows_to_check()
        own = [without_empty(rows, gradient) for gradient in gradients]

        def merged(_: Any, *shares: Any) -> list[Any]:
            joined = [joined_replicas(of_each_replica(each, self._num_replicas)) for each in shares]
            return self._exchange.sum(optimizer, joined, variables)

        sums: list[Any] = tf.distribute.get_replica_context().merge_call(merged, args=tuple(own))
        return sums

    @contextlib.contextmanager
    def done(self) -> Iterator[None]:
        """Within: a replica's `all_reduce` returns its argument; the gradients are sums already."""
        before = self.are_done
        self._local.are_done = True
        try:
            yield
        finally:
            self._local.are_done = before

    @property
    def are_done(self) -> bool:
        """Whether the calling thread is within `done`."""
        return getattr(self._local, "are_done", False)

    @property
    def replicas_meet(self) -> bool:
        """Whether this worker's replicas meet, and the last one brings what all have.

        Eager ones run one after the other: the first must not wait for the second. With the sums
        each updates its own variables, and waits for nobody.
        """
        return self._num_replicas > 1 and tf.executing_eagerly() and not self.are_done
