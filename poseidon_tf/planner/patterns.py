"""What a user chooses for some variables, by patterns of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from ..errors import PlanError
from .specs import VariableSpec

T = TypeVar("T")


def last_matches(
    specs: Sequence[VariableSpec], choices: Mapping[str, T], *, what: str = "pattern"
) -> list[tuple[str, T] | None]:
    """Of each variable: the last pattern that its name matches, and the choice; None if none does.

    Args:
        choices: by pattern (`fnmatch`; ``*`` crosses ``/``).
        what: a pattern is called in the error.

    Raises:
        PlanError: a pattern matches no variable.
    """
    found: list[tuple[str, T] | None] = [None] * len(specs)
    for pattern, choice in choices.items():
        matches = [at for at, spec in enumerate(specs) if fnmatchcase(spec.name, pattern)]
        if not matches:
            names = ", ".join(spec.name for spec in specs)
            raise PlanError(f"{what} {pattern!r} matches no variable; the names are: {names}")
        for at in matches:
            found[at] = (pattern, choice)
    return found
