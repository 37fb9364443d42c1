"""A unit of the plan on its way to the other workers: what all schemes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import tensorflow as tf

from poseidon_tf.planner import Plan, Scheme, Unit, VariableSpec
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.graph.describe import Compact, Gradient
from poseidon_tf.strategy.graph.route import GraphRoute

Gradients: TypeAlias = Sequence[Gradient] | Mapping[int, Gradient]


class OpenUnit(ABC):
    """A unit whose route is open on all workers.

    A scheme is a subclass: how a route is opened, what a replica contributes to it, and the
    gradients that come of what is received.

    Attributes:
      unit: of `plan`.
      agreed: what the workers have agreed that its first variable is.
      wire_dtype: of that variable's whole gradient on the wire.
      first_step: of the training, from which on it is used.
      route: its way to the other workers and back.
    """

    scheme: ClassVar[Scheme]

    def __init__(
        self,
        worker: Worker,
        plan: Plan,
        unit: Unit,
        agreed: VariableSpec,
        *,
        plan_number: int,
        key: int,
        first_step: int = 0,
    ) -> None:
        self.unit, self.agreed, self.first_step = unit, agreed, first_step
        self.wire_dtype = plan.variables[unit.variables[0]].wire_dtype
        self.name = self.name_of(unit, plan)
        self.route = self._open(worker, plan, plan_number=plan_number, key=key)

    @classmethod
    def name_of(cls, unit: Unit, plan: Plan) -> str:
        """For errors, and for people who look at a graph or a timeline."""
        return plan.variables[unit.variables[0]].name

    @classmethod  # noqa: B027 - most schemes have nobody to tell.
    def announce(cls, worker: Worker, plan: Plan, *, plan_number: int, first_step: int) -> None:
        """Tell whoever must know before the plan's units of this scheme are opened, all at once."""

    @abstractmethod
    def _open(self, worker: Worker, plan: Plan, *, plan_number: int, key: int) -> GraphRoute:
        """Open the unit's route; all workers do.

        Args:
          plan_number: of the plan in this job.
          key: of the unit in this job.
        """

    def as_planned(
        self, specs: Sequence[VariableSpec], compact: Mapping[int, Compact]
    ) -> tuple[dict[int, Compact], str]:
        """The forms in which this unit's gradients can travel as planned, by position.

        And why a gradient that is traced now cannot, so that it goes whole; empty if all can.

        Args:
          specs: of all variables, as they are traced.
          compact: by position, the forms that can travel instead of the gradient.
        """
        return {at: compact[at] for at in self.unit.variables if at in compact}, ""

    def exchange(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
        *,
        rows: Any,
        check: Any,
    ) -> dict[int, Gradient]:
        """The sums over all workers of this unit's gradients, by position.

        Args:
          gradients: by position, those of this unit at least.
          compact: by position, the forms that can travel instead of the gradient.
          rows, check: see `GraphRoute.unless_empty` and `checking`.
        """
        route = self.route.unless_empty(rows).checking(check)
        results = route.exchange(self.contribution(gradients, compact, variables))
        return self.sums(results, gradients, variables)

    def send(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
        *,
        rows: Any,
        check: Any,
    ) -> None:
        """The first half of `exchange`, in a graph."""
        route = self.route.unless_empty(rows).checking(check)
        route.send(self.contribution(gradients, compact, variables))

    def receive(self, like: Gradients, variables: Sequence[tf.Variable]) -> dict[int, Gradient]:
        """The second half, in this or another graph.

        Args:
          like: by position, gradients of the same kind and dtype as those that were sent.
        """
        return self.sums(self.route.receive(), like, variables)

    @abstractmethod
    def contribution(
        self,
        gradients: Gradients,
        compact: Mapping[int, Compact],
        variables: Sequence[tf.Variable],
    ) -> list[tf.Tensor]:
        """What a replica puts on the route."""

    @abstractmethod
    def sums(
        self,
        results: Sequence[tf.Tensor],
        gradients: Gradients,
        variables: Sequence[tf.Variable],
    ) -> dict[int, Gradient]:
        """The sums of this unit's gradients, by position, of what came back on the route."""

    def nothing(self, variable: tf.Variable) -> Any:
        """The gradient of a replica whose loss does not depend on `variable` in this step."""
        return tf.zeros_like(variable)

    def graph_route(
        self,
        worker: Worker,
        dtypes: Sequence[str],
        opener: Callable[[Deliver], Route],
        *,
        is_vector: bool = False,
    ) -> GraphRoute:
        """The route that `opener` opens, whose results have these dtypes; see `GraphRoute`."""
        return GraphRoute(
            self.name,
            [tf.dtypes.as_dtype(dtype) for dtype in dtypes],
            opener,
            lambda: worker.session.failure,
            num_replicas=worker.num_replicas,
            is_vector=is_vector,
        )

    def rounded(self, tensor: tf.Tensor) -> tf.Tensor:
        """`tensor` as it leaves its device: what is of the variable's type, in the wire's."""
        return (
            tf.cast(tensor, self.wire_dtype) if tensor.dtype.name == self.agreed.dtype else tensor
        )

    def variable_names(self, plan: Plan) -> list[str]:
        """Of the variables whose gradients travel this way."""
        return [plan.variables[position].name for position in self.unit.variables]
