"""What is pushed as one: the variables of a unit, by their scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .plan import Scheme, Unit
from .schemes.ps import ServerRules
from .schemes.rows import RowsRules
from .schemes.rules import SchemeRules
from .schemes.sfb import FactorRules
from .specs import VariableSpec

RULES: Mapping[Scheme, SchemeRules] = {
    each.scheme: each for each in (ServerRules(), FactorRules(), RowsRules())
}


def units_of(
    specs: Sequence[VariableSpec], schemes: Sequence[Scheme], *, coalesce_bytes: int
) -> tuple[Unit, ...]:
    """Group variables into units: each SFB kernel with its biases, each sparse variable that
    travels as rows, small PS neighbours together.

    Units are numbered by their first variable.

    Args:
        schemes: of the variables.
    """
    groups = []
    for scheme, rules in RULES.items():
        members = [at for at, own in enumerate(schemes) if own is scheme]
        groups += rules.groups(specs, members, coalesce_bytes=coalesce_bytes)
    groups.sort(key=min)
    units = []
    for index, group in enumerate(groups):
        scheme = schemes[group[0]]
        dtype, num_elements = RULES[scheme].sent([specs[at] for at in group])
        units.append(Unit(index, scheme, tuple(group), dtype, num_elements))
    return tuple(units)
