"""What each scheme sends in a step, and the gradients that come of what it receives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import tensorflow as tf

from poseidon_tf.planner import Plan, Scheme, Unit, VariableSpec, index_dtype, kernel_position
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.factors import Columns, RowSpec
from poseidon_tf.strategy.graph.describe import Compact, Gradient
from poseidon_tf.strategy.graph.products import Factors, laid_out
from poseidon_tf.strategy.graph.route import GraphRoute
from poseidon_tf.strategy.graph.rows import SparseRows

Gradients: TypeAlias = Sequence[Gradient] | Mapping[int, Gradient]


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """A unit of the plan and its way to the other workers.

    Attributes:
      agreed: what the workers have agreed that its first variable is.
    """

    unit: Unit
    route: GraphRoute
    agreed: VariableSpec

    @property
    def sides(self) -> tuple[int, int]:
        """SFB: the columns M of U and N of V."""
        assert self.agreed.factors is not None, f"{self.route.name}: SFB without factors"
        return self.agreed.factors

    def planned_factors(
        self, specs: Sequence[VariableSpec], compact: Mapping[int, Compact]
    ) -> Factors | str:
        """SFB: the factors of a gradient that is traced now, or why it cannot travel as planned.

        A step that is traced again, on this worker alone, may compute it in another way.
        """
        kernel, *biases = self.unit.variables
        form = compact.get(kernel)
        if not isinstance(form, Factors):
            return specs[kernel].why_not or "gradient is no product"
        if form.dtype.name != self.unit.dtype:
            return f"its factors are {form.dtype.name}, not {self.unit.dtype}"
        for bias in biases:
            if kernel_position(specs, bias) != kernel:
                return f"the gradient of {specs[bias].name!r} is not the column sum of its factor"
        arranged = form.arranged(self.sides, self.agreed.layout)
        if arranged is None or (biases and arranged is not form):
            return f"its factors have {form.sides} columns, not {self.sides}, or another order"
        return arranged

    def exchange(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        """The sums over all workers of this unit's gradients, by position.

        Args:
          gradients: by position, those of this unit at least.
          compact: by position, the forms that can travel instead of the gradient.
        """
        results = self.route.exchange(self.contribution(gradients, compact, variables))
        return self.sums(results, gradients, variables)

    def contribution(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> list[tf.Tensor]:
        """What a replica puts on the route."""
        first = self.unit.variables[0]
        form = compact.get(first)
        if self.unit.scheme is Scheme.SFB:
            return self._factors_or_whole(form, gradients, variables)
        if self.unit.scheme is Scheme.ROWS:
            shape = variables[first].shape
            if isinstance(form, SparseRows):
                return [tf.cast(form.indices, index_dtype(shape)), form.matrix()]
            # What this trace gives is dense: all rows of the table.
            matrix = tf.reshape(gradients[first], [shape[0], -1])
            return [tf.range(shape[0], dtype=index_dtype(shape)), tf.cast(matrix, self.unit.dtype)]
        # Sparse ones as their dense table.
        return [tf.convert_to_tensor(gradients[position]) for position in self.unit.variables]

    def _factors_or_whole(
        self, form: Compact | None, gradients: Gradients, variables: Sequence[tf.Variable]
    ) -> list[tf.Tensor]:
        """U, V and what is sent whole: rows of both, or one of the last."""
        dtype = self.agreed.dtype
        if isinstance(form, Factors):
            width = sum(variables[at].shape.num_elements() for at in self.unit.variables)
            return [form.U.matrix(), form.V.matrix(), tf.zeros([0, width], dtype)]
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
        """The sums of this unit's gradients, of what came back on the route."""
        if self.unit.scheme is Scheme.SFB:
            return _sums_of_factors(self, results, gradients, variables)
        if self.unit.scheme is Scheme.ROWS:
            return _sum_of_rows(self, results, gradients, variables)
        return _split_total(self, results, variables)


def open_units(
    worker: Worker, plan: Plan, specs: Sequence[VariableSpec], *, number: int, first_key: int
) -> list[OpenUnit]:
    """Open the routes of all units of `plan`; all workers do.

    Args:
      specs: of the plan's variables, as agreed on.
      number: of the plan in this job.
      first_key: of the plan's first unit in this job.
    """
    sums = [unit for unit in plan.units if unit.scheme is Scheme.PS]
    worker.announce_sums(
        [(f"{number}/{_name(unit, plan)}", unit.dtype, _pairs(unit, plan)) for unit in sums]
    )
    return [
        OpenUnit(unit, _route(worker, plan, unit, number, first_key + unit.index), spec)
        for unit in plan.units
        for spec in [specs[unit.variables[0]]]
    ]


def _route(worker: Worker, plan: Plan, unit: Unit, number: int, key: int) -> GraphRoute:
    variable, name = plan.variables[unit.variables[0]], _name(unit, plan)
    opener: Callable[[Deliver], Route]
    if unit.scheme is Scheme.PS:
        dtypes = [unit.dtype]
        opener = functools.partial(_open_sum, worker, f"{number}/{name}", unit, plan)
    else:
        if unit.scheme is Scheme.SFB:
            assert variable.factors is not None, f"{name}: SFB without factors"
            M, N = variable.factors
            width = sum(math.prod(plan.variables[at].shape) for at in unit.variables)
            spec = RowSpec.factors(
                name, M=M, N=N, dtype=unit.dtype, whole=Columns(width, variable.dtype)
            )
        else:
            spec = _rows_spec(name, variable.shape, unit)
        arrays = [*spec.arrays, *([] if spec.whole is None else [spec.whole])]
        dtypes = [columns.dtype for columns in arrays]
        opener = functools.partial(_open_rows, worker, key, spec, unit, plan)
    return GraphRoute(
        name,
        [tf.dtypes.as_dtype(dtype) for dtype in dtypes],
        opener,
        lambda: worker.session.failure,
        num_replicas=worker.num_replicas,
    )


def _rows_spec(name: str, shape: tuple[int, ...], unit: Unit) -> RowSpec:
    return RowSpec.sparse(
        name,
        num_rows=shape[0],
        width=unit.num_elements // shape[0],
        dtype=unit.dtype,
        index_dtype=index_dtype(shape),
    )


def _open_rows(
    worker: Worker, key: int, spec: RowSpec, unit: Unit, plan: Plan, deliver: Deliver
) -> Route:
    purpose: Literal["sfb", "rows"] = "sfb" if unit.scheme is Scheme.SFB else "rows"
    return worker.open_factors(
        key, spec, purpose=purpose, variables=_names(unit, plan), deliver=deliver
    )


def _open_sum(worker: Worker, name: str, unit: Unit, plan: Plan, deliver: Deliver) -> Route:
    return worker.open_sum(
        name,
        unit.dtype,
        _pairs(unit, plan),
        num_elements=unit.num_elements,
        purpose="ps",
        variables=_names(unit, plan),
        deliver=deliver,
    )


def _pairs(unit: Unit, plan: Plan) -> list[tuple[int, int, int]]:
    return [(p.server, p.offset, p.length) for p in plan.pairs if p.unit == unit.index]


def _name(unit: Unit, plan: Plan) -> str:
    name = plan.variables[unit.variables[0]].name
    if unit.scheme is Scheme.PS and len(unit.variables) > 1:
        name += f" and {len(unit.variables) - 1} more"
    return name


def _names(unit: Unit, plan: Plan) -> list[str]:
    return [plan.variables[position].name for position in unit.variables]


def _split_total(
    open_unit: OpenUnit, results: Sequence[tf.Tensor], variables: Sequence[tf.Variable]
) -> dict[int, Gradient]:
    """The gradients of a PS unit, which the servers have summed as one vector."""
    positions = open_unit.unit.variables
    (total,) = results
    sizes = [variables[position].shape.num_elements() for position in positions]
    total = tf.ensure_shape(total, [sum(sizes)])
    return {
        position: tf.reshape(part, variables[position].shape)
        for position, part in zip(positions, tf.split(total, sizes), strict=True)
    }


def _sums_of_factors(
    open_unit: OpenUnit,
    results: Sequence[tf.Tensor],
    gradients: Gradients,
    variables: Sequence[tf.Variable],
) -> dict[int, Gradient]:
    """The gradients of a kernel and its biases, from the factors of all workers.

    One product over the rows of all ranks replaces the local one, which nothing uses any more:
    TensorFlow prunes it. Narrow factors are multiplied and added up in float32.
    """
    kernel, *biases = open_unit.unit.variables
    (M, N), (U_KM, V_KN, whole) = open_unit.sides, results
    wide = tf.float64 if U_KM.dtype == tf.float64 else tf.float32
    U_KM = tf.cast(tf.ensure_shape(U_KM, [None, M]), wide)
    V_KN = tf.cast(tf.ensure_shape(V_KN, [None, N]), wide)
    product = tf.matmul(U_KM, V_KN, transpose_a=True, name="poseidon_rebuild")
    kernel_sum = laid_out(product, open_unit.agreed.layout, variables[kernel].shape)
    sums = [kernel_sum, *(tf.reduce_sum(V_KN, axis=0) for _ in biases)]
    sums = tf.cond(
        tf.greater(tf.shape(whole)[0], 0),
        lambda: _with_whole(sums, whole),
        lambda: sums,
        name="poseidon_whole",
    )
    return {
        position: tf.cast(tf.reshape(total, variables[position].shape), gradients[position].dtype)
        for position, total in zip(open_unit.unit.variables, sums, strict=True)
    }


def _with_whole(sums: Sequence[tf.Tensor], whole: tf.Tensor) -> list[tf.Tensor]:
    """`sums` of products, plus gradients that some worker sent whole, one to a row."""
    sizes = [total.shape.num_elements() for total in sums]
    whole = tf.cast(tf.ensure_shape(whole, [None, sum(sizes)]), sums[0].dtype)
    parts = tf.split(tf.reduce_sum(whole, axis=0), sizes)
    return [total + tf.reshape(part, total.shape) for total, part in zip(sums, parts, strict=True)]


def _sum_of_rows(
    open_unit: OpenUnit,
    results: Sequence[tf.Tensor],
    gradients: Gradients,
    variables: Sequence[tf.Variable],
) -> dict[int, Gradient]:
    """A sparse gradient with the rows of all workers, rank after rank.

    Rows of one index stay apart: the optimizer sees what one process would have shown it.
    """
    (position,) = open_unit.unit.variables
    gradient, shape = gradients[position], variables[position].shape
    indices, values = results
    values = tf.cast(tf.reshape(values, [-1, *shape[1:]]), gradient.dtype)
    indices = tf.reshape(indices, [-1])
    if not isinstance(gradient, tf.IndexedSlices):
        return {position: tf.IndexedSlices(values, indices, tf.constant(shape.as_list()))}
    indices = tf.cast(indices, gradient.indices.dtype)
    return {position: tf.IndexedSlices(values, indices, gradient.dense_shape)}
