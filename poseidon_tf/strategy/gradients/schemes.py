"""Which class stands for which scheme, and how the units of a plan are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poseidon_tf.planner import Plan, Scheme, VariableSpec
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.gradients.open_unit import OpenUnit
from poseidon_tf.strategy.gradients.ps import ServerUnit
from poseidon_tf.strategy.gradients.rows import RowsUnit
from poseidon_tf.strategy.gradients.sfb import FactorUnit

SCHEMES: Mapping[Scheme, type[OpenUnit]] = {
    each.scheme: each for each in (ServerUnit, FactorUnit, RowsUnit)
}


def open_units(
    worker: Worker,
    plan: Plan,
    specs: Sequence[VariableSpec],
    *,
    number: int,
    first_key: int,
    first_step: int = 0,
) -> list[OpenUnit]:
    """Open the routes of all units of `plan`; all workers do.

    Args:
      specs: of the plan's variables, as agreed on.
      number: of the plan in this job.
      first_key: of the plan's first unit in this job.
      first_step: of the training, from which on the plan is followed.
    """
    for scheme in SCHEMES.values():
        scheme.announce(worker, plan, plan_number=number, first_step=first_step)
    return [
        SCHEMES[unit.scheme](
            worker,
            plan,
            unit,
            specs[unit.variables[0]],
            plan_number=number,
            key=first_key + unit.index,
            first_step=first_step,
        )
        for unit in plan.units
    ]
