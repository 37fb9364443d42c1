"""Rows: a sparse gradient's rows and their indices to every peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.planner import Plan, Scheme, index_dtype
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.strategy.gradients.open_unit import Gradients, OpenUnit
from poseidon_tf.strategy.graph.describe import Compact, Gradient
from poseidon_tf.strategy.graph.route import GraphRoute
from poseidon_tf.strategy.graph.rows import SparseRows


@final
class RowsUnit(OpenUnit):
    """A table of which a step touches some rows."""

    scheme = Scheme.ROWS

    def _open(self, worker: Worker, plan: Plan, *, plan_number: int, key: int) -> GraphRoute:
        shape = self.agreed.shape
        spec = RowSpec.sparse(
            self.name,
            num_rows=shape[0],
            width=self.unit.num_elements // shape[0],
            dtype=self.unit.dtype,
            index_dtype=index_dtype(shape),
        )

        def open_route(deliver: Deliver) -> Route:
            return worker.open_factors(
                key,
                spec,
                purpose="rows",
                variables=self.variable_names(plan),
                priority=self.unit.priority,
                first_step=self.first_step,
                deliver=deliver,
            )

        return self.graph_route(worker, [each.dtype for each in spec.arrays], open_route)

    def contribution(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> list[tf.Tensor]:
        (position,), shape = self.unit.variables, self.agreed.shape
        form = compact.get(position)
        if isinstance(form, SparseRows):
            values = self.rounded(form.matrix())
            return [tf.cast(form.indices, index_dtype(shape)), values]
        # What this trace gives is dense: all rows of the table.
        matrix = tf.reshape(gradients[position], [shape[0], -1])
        return [tf.range(shape[0], dtype=index_dtype(shape)), tf.cast(matrix, self.unit.dtype)]

    def sums(
        self,
        results: Sequence[tf.Tensor],
        gradients: Gradients,
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        """The rows of all workers, rank after rank.

        Rows of one index stay apart: the optimizer sees what one process would have shown it.
        """
        (position,), shape = self.unit.variables, self.agreed.shape
        gradient = gradients[position]
        indices, values = results
        values = tf.cast(tf.reshape(values, [-1, *shape[1:]]), gradient.dtype)
        indices = tf.reshape(indices, [-1])
        if not isinstance(gradient, tf.IndexedSlices):
            return {position: tf.IndexedSlices(values, indices, tf.constant(shape))}
        indices = tf.cast(indices, gradient.indices.dtype)
        return {position: tf.IndexedSlices(values, indices, gradient.dense_shape)}

    def nothing(self, variable: tf.Variable) -> Any:
        return tf.IndexedSlices(
            tf.zeros([0, *variable.shape[1:]], variable.dtype),
            tf.zeros([0], tf.int64),
            tf.constant(variable.shape),
        )
