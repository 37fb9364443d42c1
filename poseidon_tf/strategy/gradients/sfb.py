"""SFB: two thin factors of a kernel's gradient to every peer, multiplied there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import tensorflow as tf

from poseidon_tf.planner import Plan, Scheme, VariableSpec, kernel_position
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.factors import Columns, RowSpec
from poseidon_tf.strategy.gradients.open_unit import Gradients, OpenUnit
from poseidon_tf.strategy.graph.describe import Compact, Gradient
from poseidon_tf.strategy.graph.products import Factors, laid_out
from poseidon_tf.strategy.graph.route import GraphRoute


@final
class FactorUnit(OpenUnit):
    """A kernel, and the biases whose gradients are the column sums of its factor V."""

    scheme = Scheme.SFB

    @property
    def sides(self) -> tuple[int, int]:
        """The columns M of U and N of V."""
        assert self.agreed.factors is not None, f"{self.name}: SFB without factors"
        return self.agreed.factors

    def _open(self, worker: Worker, plan: Plan, *, plan_number: int, key: int) -> GraphRoute:
        M, N = self.sides
        width = sum(math.prod(plan.variables[at].shape) for at in self.unit.variables)
        whole = Columns(width, self.wire_dtype)
        spec = RowSpec.factors(self.name, M=M, N=N, dtype=self.unit.dtype, whole=whole)

        def open_route(deliver: Deliver) -> Route:
            return worker.open_factors(
                key,
                spec,
                purpose="sfb",
                variables=self.variable_names(plan),
                priority=self.unit.priority,
                first_step=self.first_step,
                deliver=deliver,
            )

        dtypes = [columns.dtype for columns in (*spec.arrays, whole)]
        return self.graph_route(worker, dtypes, open_route)

    def as_planned(
        self, specs: Sequence[VariableSpec], compact: Mapping[int, Compact]
    ) -> tuple[dict[int, Compact], str]:
        planned = self._planned_factors(specs, compact)
        if isinstance(planned, str):
            return {}, planned
        return {self.unit.variables[0]: planned}, ""

    def _planned_factors(
        self, specs: Sequence[VariableSpec], compact: Mapping[int, Compact]
    ) -> Factors | str:
        """The factors of a gradient that is traced now, or why it cannot travel as planned.

        A step that is traced again, on this worker alone, may compute it in another way.
        """
        kernel, *biases = self.unit.variables
        form = compact.get(kernel)
        if not isinstance(form, Factors):
            return specs[kernel].why_not or "gradient is no product"
        if form.dtype.name != self.agreed.sent_dtype:
            return f"its factors are {form.dtype.name}, not {self.agreed.sent_dtype}"
        for bias in biases:
            if kernel_position(specs, bias) != kernel:
                return f"the gradient of {specs[bias].name!r} is not the column sum of its factor"
        arranged = form.arranged(self.sides, self.agreed.layout)
        if arranged is None or (biases and arranged is not form):
            return f"its factors have {form.sides} columns, not {self.sides}, or another order"
        return arranged

    def contribution(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> list[tf.Tensor]:
        """U, V and what is sent whole: rows of both, or one of the last."""
        form, dtype = compact.get(self.unit.variables[0]), self.wire_dtype
        if isinstance(form, Factors):
            width = sum(variables[at].shape.num_elements() for at in self.unit.variables)
            factors = [self.rounded(form.U.matrix()), self.rounded(form.V.matrix())]
            return [*factors, tf.zeros([0, width], dtype)]
        parts = [
            tf.reshape(tf.cast(tf.convert_to_tensor(gradients[at]), dtype), [1, -1])
            for at in self.unit.variables
        ]
        no_rows = [tf.zeros([0, columns], self.unit.dtype) for columns in self.sides]
        return [*no_rows, tf.concat(parts, axis=1)]

    def sums(
        self,
        results: Sequence[tf.Tensor],
        gradients: Gradients,
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        """The gradients of the kernel and its biases, from the factors of all workers.

        One product over the rows of all ranks replaces the local one, which nothing uses any
        more: TensorFlow prunes it. Narrow factors are multiplied and added up in float32.
        """
        kernel, *biases = self.unit.variables
        (M, N), (U_KM, V_KN, whole) = self.sides, results
        wide = tf.float64 if U_KM.dtype == tf.float64 else tf.float32
        U_KM = tf.cast(tf.ensure_shape(U_KM, [None, M]), wide)
        V_KN = tf.cast(tf.ensure_shape(V_KN, [None, N]), wide)
        product = tf.matmul(U_KM, V_KN, transpose_a=True, name="poseidon_rebuild")
        kernel_sum = laid_out(product, self.agreed.layout, variables[kernel].shape)
        sums = [kernel_sum, *(tf.reduce_sum(V_KN, axis=0) for _ in biases)]
        sums = tf.cond(
            tf.greater(tf.shape(whole)[0], 0),
            lambda: _with_whole(sums, whole),
            lambda: sums,
            name="poseidon_whole",
        )
        return {
            position: tf.cast(
                tf.reshape(total, variables[position].shape), gradients[position].dtype
            )
            for position, total in zip(self.unit.variables, sums, strict=True)
        }


def _with_whole(sums: Sequence[tf.Tensor], whole: tf.Tensor) -> list[tf.Tensor]:
    """`sums` of products, plus gradients that some worker sent whole, one to a row."""
    sizes = [total.shape.num_elements() for total in sums]
    whole = tf.cast(tf.ensure_shape(whole, [None, sum(sizes)]), sums[0].dtype)
    parts = tf.split(tf.reduce_sum(whole, axis=0), sizes)
    return [total + tf.reshape(part, total.shape) for total, part in zip(sums, parts, strict=True)]
