"""A plan that was made before, as the choices for a model that is about to train."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, PlanError
from .plan import Plan
from .rounding import WireDtype
from .specs import VariableSpec


class Choices(NamedTuple):
    """What a plan follows from besides the model and the cluster: arguments of `make_plan`."""

    schemes: Mapping[str, str] | None
    wire_dtype: WireDtype
    kv_pair_bytes: int
    coalesce_bytes: int


def read_plan(path: str | Path) -> Plan:
    """The plan that a file holds, as `Plan.to_json` has written it.

    Raises:
        ConfigError: the file cannot be read, or holds no plan.
    """
    try:
        return Plan.from_json(Path(path).read_text())
    except (OSError, UnicodeDecodeError, PlanError) as failure:
        raise ConfigError(
            f"plan={str(path)!r} cannot be used: {failure}; write a plan with "
            "strategy.plan.to_json() or with `poseidon-tf plan --json`"
        ) from failure


def choices_of(plan: Plan, specs: Sequence[VariableSpec]) -> Choices:
    """What `plan` has chosen for these variables; it may have others, too.

    Pieces and their servers are not among it: they follow from the cluster that trains, which may
    be another one.

    Raises:
        PlanError: a variable is not in the plan, or is another one there.
    """
    by_name = {variable.name: variable for variable in plan.variables}
    schemes, wire_dtype = {}, {}
    for spec in specs:
        planned = by_name.get(spec.name)
        if planned is None:
            raise PlanError(
                f"the plan that was given has no variable {spec.name!r}; it has: "
                f"{', '.join(by_name)}"
            )
        mine, theirs = (spec.shape, spec.dtype), (planned.shape, planned.dtype)
        if mine != theirs:
            raise PlanError(
                f"the plan that was given is for another model: {spec.name!r} is {spec.dtype} "
                f"{spec.shape}, in the plan {planned.dtype} {planned.shape}"
            )
        pattern = glob.escape(spec.name)
        schemes[pattern] = str(planned.scheme)
        if spec.dtype == "float32":
            wire_dtype[pattern] = planned.wire_dtype
    return Choices(schemes, wire_dtype, plan.kv_pair_bytes, plan.coalesce_bytes)
