"""PS: the whole gradient to the servers, and the sum back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import tensorflow as tf

from poseidon_tf.planner import KVPair, Plan, Scheme, Unit
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.syncers import Sum
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.gradients.open_unit import Gradients, OpenUnit
from poseidon_tf.strategy.graph.describe import Compact, Gradient
from poseidon_tf.strategy.graph.route import GraphRoute


@final
class ServerUnit(OpenUnit):
    """One or more variables whose gradients the servers sum as one vector."""

    scheme = Scheme.PS

    @classmethod
    def name_of(cls, unit: Unit, plan: Plan) -> str:
        others = len(unit.variables) - 1
        return super().name_of(unit, plan) + f" and {others} more" * bool(others)

    @classmethod
    def announce(cls, worker: Worker, plan: Plan, *, plan_number: int, first_step: int) -> None:
        worker.announce_sums(
            [
                Sum(
                    f"{plan_number}/{cls.name_of(unit, plan)}",
                    unit.dtype,
                    _pairs(unit, plan),
                    unit.priority,
                    first_step,
                )
                for unit in plan.units
                if unit.scheme is cls.scheme
            ]
        )

    def _open(self, worker: Worker, plan: Plan, *, plan_number: int, key: int) -> GraphRoute:
        def open_route(deliver: Deliver) -> Route:
            return worker.open_sum(
                f"{plan_number}/{self.name}",
                self.unit.dtype,
                _pairs(self.unit, plan),
                num_elements=self.unit.num_elements,
                purpose="ps",
                variables=self.variable_names(plan),
                priority=self.unit.priority,
                first_step=self.first_step,
                deliver=deliver,
            )

        return self.graph_route(worker, [self.unit.dtype], open_route, is_vector=True)

    def contribution(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> list[tf.Tensor]:
        # Sparse ones as their dense table.
        return [
            tf.cast(tf.convert_to_tensor(gradients[position]), self.unit.dtype)
            for position in self.unit.variables
        ]

    def sums(
        self,
        results: Sequence[tf.Tensor],
        gradients: Gradients,
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        positions = self.unit.variables
        (total,) = results
        sizes = [variables[position].shape.num_elements() for position in positions]
        total = tf.ensure_shape(total, [sum(sizes)])
        return {
            position: tf.cast(
                tf.reshape(part, variables[position].shape), gradients[position].dtype
            )
            for position, part in zip(positions, tf.split(total, sizes), strict=True)
        }


def _pairs(unit: Unit, plan: Plan) -> list[KVPair]:
    return [pair for pair in plan.pairs if pair.unit == unit.index]
