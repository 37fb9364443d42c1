"""Sums eager gradients over all workers, each as soon as a backward pass has finished it.

Which of a tape's variables have a gradient shows only after the first backward pass. So in the
first step of a list of variables the workers agree on a plan, and its gradients leave late. From
then on every route of the list gets one push per step on every worker, whatever this step's loss
depends on: a variable that it leaves out contributes zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError, PoseidonError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.exchange import GradientExchange
from poseidon_tf.strategy.gradients.open_unit import OpenUnit
from poseidon_tf.strategy.graph.describe import Compact
from poseidon_tf.strategy.graph.rows import sparse_rows


@dataclass(frozen=True, slots=True)
class _Group:
    """Variables that were agreed on together: their positions in a tape's list, and their units."""

    positions: tuple[int, ...]
    units: Sequence[OpenUnit]


@final
class EagerSums:
    """What is known, by list of variables, of the gradients that it has had."""

    def __init__(self, exchange: GradientExchange) -> None:
        self._exchange = exchange
        self._groups: dict[tuple[str, ...], list[_Group]] = {}

    def refuse_weights(self) -> None:
        """Raise where shares count by their rows: a gradient that has left cannot be weighed."""
        if self._exchange.weighs_samples:
            raise ConfigError(
                'loss_weighting="sample" needs a traced step with poseidon_tf.GradientTape; put '
                'the step into a tf.function, or take "replica"'
            )

    def begin(self, variables: Sequence[Any]) -> BackwardPass:
        """A backward pass over these variables, none of them twice."""
        key = tuple(tf_internals.variable_id(variable) for variable in variables)
        return BackwardPass(self._exchange, variables, self._groups.setdefault(key, []))


@final
class BackwardPass:
    """The gradients of one step: first `final` for each as it comes, then `finish`, or `abandon`.

    Args:
      groups: of these variables; gets another one when more of them turn out to have a gradient.
    """

    def __init__(
        self, exchange: GradientExchange, variables: Sequence[Any], groups: list[_Group]
    ) -> None:
        self._exchange, self._variables, self._groups = exchange, variables, groups
        self._parts = [tf_internals.components(variable)[0] for variable in variables]
        self._final: dict[int, Any] = {}
        self._unit_of = {
            group.positions[at]: (group, open_unit)
            for group in groups
            for open_unit in group.units
            for at in open_unit.unit.variables
        }
        self._pushed: dict[int, int] = {}  # By the unit's `id`: the step of its push.
        self._rows = exchange.rows_to_check
        self._is_over = False

    def final(self, position: int, gradient: tf.Tensor | tf.IndexedSlices) -> None:
        """The whole gradient of the variable at `position`; pushed once its unit is complete."""
        if self._is_over or position not in self._unit_of:
            return
        self._final[position] = gradient
        group, open_unit = self._unit_of[position]
        if all(group.positions[at] in self._final for at in open_unit.unit.variables):
            self._push(group, open_unit)

    def finish(self, gradients: Sequence[Any]) -> list[Any]:
        """The sums, after the backward pass has returned `gradients`.

        None where no worker has had a gradient yet.

        Raises:
          PlanError: another worker has gradients for other variables.
        """
        for position, (_, open_unit) in self._unit_of.items():
            if position not in self._final:
                given = gradients[position]
                self._final[position] = (
                    open_unit.nothing(self._parts[position]) if given is None else given
                )
        for group in self._groups:
            for open_unit in group.units:
                if id(open_unit) not in self._pushed:
                    self._push(group, open_unit)
        sums: list[Any] = [None] * len(gradients)
        for group in self._groups:
            for open_unit in group.units:
                results = open_unit.route.pull(self._pushed[id(open_unit)])
                pushed, _, parts = self._contributed(group, open_unit)
                total = open_unit.sums(results, pushed, parts)
                for at, each in total.items():
                    sums[group.positions[at]] = each
        new = tuple(
            position
            for position, gradient in enumerate(gradients)
            if gradient is not None and position not in self._unit_of
        )
        if new:
            variables = [self._variables[position] for position in new]
            own = [gradients[position] for position in new]
            totals = self._exchange.sum(None, own, variables)
            self._groups.append(_Group(new, self._exchange.eager_units(variables)))
            for position, total in zip(new, totals, strict=True):
                sums[position] = total
        self._is_over = True
        return sums

    def abandon(self, reason: BaseException) -> None:
        """The step has failed here; where others count on its gradients, it fails everywhere."""
        self._is_over = True
        if self._pushed:
            self._exchange.fail(
                PoseidonError(
                    "a step of poseidon_tf.GradientTape failed after some of its gradients had "
                    f"left for the other workers, so the job cannot go on: {reason!r}"
                )
            )

    def _push(self, group: _Group, open_unit: OpenUnit) -> None:
        contribution = open_unit.contribution(*self._contributed(group, open_unit))
        check = self._exchange.checks.for_gradients_of(None)
        route = open_unit.route.unless_empty(self._rows).checking(check)
        self._pushed[id(open_unit)] = route.push(contribution)

    def _contributed(
        self, group: _Group, open_unit: OpenUnit
    ) -> tuple[dict[int, Any], dict[int, Compact], list[Any]]:
        """Gradients and compact forms of a unit, by their position in the group; its variables."""
        gradients = {at: self._final[group.positions[at]] for at in open_unit.unit.variables}
        variables = [self._parts[position] for position in group.positions]
        compact: dict[int, Compact] = {
            at: sparse_rows(gradient, variables[at])
            for at, gradient in gradients.items()
            if isinstance(gradient, tf.IndexedSlices)
        }
        return gradients, compact, variables
