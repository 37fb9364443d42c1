"""Which float32 gradients are rounded to 16 bits before they leave their device, and to what.

Other gradients travel as they are: float64 because whoever uses it wants its digits, float16 and
bfloat16 because they are that narrow already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..errors import ConfigError
from .patterns import last_matches
from .specs import VariableSpec

WIRE_DTYPES = ("bfloat16", "float16", "float32")
"""What a float32 gradient may be on the wire; as float32 it is not rounded."""
WireDtype: TypeAlias = str | Mapping[str, str] | None
"""One of `WIRE_DTYPES` for all, or for the variables that match a pattern; None: none is rounded"""

_ROUNDED = "float32"


def check_wire_dtype(wire_dtype: WireDtype) -> None:
    """Raise ConfigError unless float32 gradients can travel so."""
    if wire_dtype is None:
        return
    if isinstance(wire_dtype, Mapping):
        given = {f"wire_dtype[{pattern!r}]": dtype for pattern, dtype in wire_dtype.items()}
    else:
        given = {"wire_dtype": wire_dtype}
    for name, dtype in given.items():
        if dtype not in WIRE_DTYPES:
            *first, last = [repr(each) for each in WIRE_DTYPES]
            raise ConfigError(f"{name} must be {', '.join(first)} or {last}, got {dtype!r}")


def on_the_wire(specs: Sequence[VariableSpec], wire_dtype: WireDtype) -> list[VariableSpec]:
    """The variables as their gradients travel: float32 becomes what it is rounded to.

    Factors and rows that a step computes in another type than the variable's stay what they are.

    Raises:
        ConfigError: see `check_wire_dtype`.
        PlanError: a pattern matches no variable.
    """
    check_wire_dtype(wire_dtype)
    if isinstance(wire_dtype, str):
        chosen: list[str | None] = [wire_dtype] * len(specs)
    else:
        matches = last_matches(specs, wire_dtype or {}, what="wire_dtype's pattern")
        chosen = [match and match[1] for match in matches]
    return [
        replace(spec, dtype=dtype) if dtype and spec.dtype == _ROUNDED else spec
        for spec, dtype in zip(specs, chosen, strict=True)
    ]
