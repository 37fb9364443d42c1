"""What each scheme sends in a step, and the gradients that come of what it receives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import tensorflow as tf

from poseidon_tf.planner import Plan, Scheme, Unit, index_dtype
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.strategy.bridge import GraphRoute
from poseidon_tf.strategy.graph_factors import Compact, Gradient
from poseidon_tf.strategy.graph_products import Factors
from poseidon_tf.strategy.graph_rows import SparseRows
from poseidon_tf.sync.session import Deliver, Route
from poseidon_tf.sync.worker import Worker

Gradients: TypeAlias = Sequence[Gradient] | Mapping[int, Gradient]


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """A unit of the plan and its way to the other workers."""

    unit: Unit
    route: GraphRoute

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
        return self.sums(results, gradients, compact, variables)

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
            assert isinstance(form, Factors), f"{self.route.name}: SFB without factors"
            return [form.U.matrix(), form.V.matrix()]
        if self.unit.scheme is Scheme.ROWS:
            assert isinstance(form, SparseRows), f"{self.route.name}: rows of a dense gradient"
            indices = tf.cast(form.indices, index_dtype(variables[first].shape))
            return [indices, form.matrix()]
        # Sparse ones as their dense table.
        return [tf.convert_to_tensor(gradients[position]) for position in self.unit.variables]

    def sums(
        self,
        results: Sequence[tf.Tensor],
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        """The sums of this unit's gradients, of what came back on the route."""
        first = compact.get(self.unit.variables[0])
        if self.unit.scheme is Scheme.SFB:
            assert isinstance(first, Factors), f"{self.route.name}: SFB without factors"
            return _sums_of_factors(self, results, first, gradients, variables)
        if self.unit.scheme is Scheme.ROWS:
            assert isinstance(first, SparseRows), f"{self.route.name}: rows of a dense gradient"
            return _sum_of_rows(self, results, first, gradients, variables)
        return _split_total(self, results, variables)


def open_units(worker: Worker, plan: Plan, *, number: int, first_key: int) -> list[OpenUnit]:
    """Open the routes of all units of `plan`; all workers do.

    Args:
      number: of the plan in this job.
      first_key: of the plan's first unit in this job.
    """
    sums = [unit for unit in plan.units if unit.scheme is Scheme.PS]
    worker.announce_sums(
        [(f"{number}/{_name(unit, plan)}", unit.dtype, _pairs(unit, plan)) for unit in sums]
    )
    return [_open_unit(worker, plan, unit, number, first_key + unit.index) for unit in plan.units]


def _open_unit(worker: Worker, plan: Plan, unit: Unit, number: int, key: int) -> OpenUnit:
    variable, name = plan.variables[unit.variables[0]], _name(unit, plan)
    opener: Callable[[Deliver], Route]
    if unit.scheme is Scheme.PS:
        dtypes = [unit.dtype]
        opener = functools.partial(_open_sum, worker, f"{number}/{name}", unit, plan)
    else:
        if unit.scheme is Scheme.SFB:
            assert variable.factors is not None, f"{name}: SFB without factors"
            M, N = variable.factors
            spec = RowSpec.factors(name, M=M, N=N, dtype=unit.dtype)
        else:
            spec = _rows_spec(name, variable.shape, unit)
        dtypes = [columns.dtype for columns in spec.arrays]
        opener = functools.partial(_open_rows, worker, key, spec, unit, plan)
    route = GraphRoute(
        name,
        [tf.dtypes.as_dtype(dtype) for dtype in dtypes],
        opener,
        lambda: worker.session.failure,
        num_replicas=worker.num_replicas,
    )
    return OpenUnit(unit, route)


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
    factors: Factors,
    gradients: Gradients,
    variables: Sequence[tf.Variable],
) -> dict[int, Gradient]:
    """The gradients of a kernel and its biases, from the factors of all workers.

    One product over the rows of all ranks replaces the local one, which nothing uses any more:
    TensorFlow prunes it. Narrow factors are multiplied and added up in float32.
    """
    kernel, *biases = open_unit.unit.variables
    U_KM, V_KN = results
    M, N = factors.sides
    wide = tf.float64 if factors.dtype == tf.float64 else tf.float32
    U_KM = tf.cast(tf.ensure_shape(U_KM, [None, M]), wide)
    V_KN = tf.cast(tf.ensure_shape(V_KN, [None, N]), wide)
    product = tf.matmul(U_KM, V_KN, transpose_a=True, name="poseidon_rebuild")
    total = factors.laid_out(product, variables[kernel].shape)
    summed = {kernel: tf.cast(total, gradients[kernel].dtype)}
    for bias in biases:
        total = tf.reshape(tf.reduce_sum(V_KN, axis=0), variables[bias].shape)
        summed[bias] = tf.cast(total, gradients[bias].dtype)
    return summed


def _sum_of_rows(
    open_unit: OpenUnit,
    results: Sequence[tf.Tensor],
    rows: SparseRows,
    gradients: Gradients,
    variables: Sequence[tf.Variable],
) -> dict[int, Gradient]:
    """A sparse gradient with the rows of all workers, rank after rank.

    Rows of one index stay apart: the optimizer sees what one process would have shown it.
    """
    (position,) = open_unit.unit.variables
    gradient, shape = gradients[position], variables[position].shape
    indices, values = results
    values = tf.cast(tf.ensure_shape(values, [None, rows.num_columns]), gradient.dtype)
    return {
        position: tf.IndexedSlices(
            tf.reshape(values, [-1, *shape[1:]]),
            tf.cast(tf.reshape(indices, [-1]), rows.indices.dtype),
            gradient.dense_shape,
        )
    }
