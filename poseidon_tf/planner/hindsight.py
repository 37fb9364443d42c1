"""What the model of a step says of a job that has trained: with the times at which its gradients
have existed, and nothing left to guess but what links and hosts do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .exchanges import Exchange, exchanges_of
from .machines import Machines
from .plan import Plan
from .simulate import Prediction, predict_exchanges
from .timeline import Timeline


def predicted_step(
    plan: Plan,
    gradients_s: Mapping[int, float],
    *,
    computation_s: float,
    machines: Machines,
    across_step: bool = False,
) -> Prediction:
    """How long a step takes, by what was measured of one without its waiting.

    Variables are read in the order of the plan, at equal distances, until the first gradient
    exists. Multiplying the factors that have come is part of the computation as it was measured.

    Args:
        gradients_s: by unit of the plan, how long after the first gradient of a step its last one
            exists; units that are not in it take no part, such as those of another model.
        computation_s: T, of the slowest worker.
        across_step: variables are updated at the top of the next step, each before it is read.

    Raises:
        PlanError: `computation_s` is not more than 0.
    """
    last_s = min(max(gradients_s.values(), default=0.0), computation_s)
    forward_s = computation_s - last_s
    names = [variable.name for variable in plan.variables]
    at_once = Timeline(computation_s, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0))
    exchanges: list[Exchange] = []
    for unit, exchange in enumerate(exchanges_of(plan, at_once)):
        if unit in gradients_s:
            exists_s = forward_s + min(gradients_s[unit], last_s)
            needed_s = forward_s * len(exchanges) / len(gradients_s)
            exchanges.append(exchange._replace(exists_s=exists_s, needed_s=needed_s))
    return predict_exchanges(
        exchanges,
        replace(machines, flops_per_s=None),
        num_workers=plan.cluster.num_workers,
        compute_s=computation_s,
        across_step=across_step,
    )
