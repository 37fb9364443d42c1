"""Reads values of the command line's options."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

MOST_WORKERS = 65536
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def scheme_by_pattern(
    _ctx: click.Context, _param: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    """Schemes by pattern, in the order in which they count."""
    return _by_pattern([value.rpartition("=") for value in values], ("ps", "sfb", "rows"))


def wire_dtype_by_pattern(
    _ctx: click.Context, _param: click.Parameter, values: Sequence[str]
) -> dict[str, str]:
    """The same with types that gradients travel as; one without a pattern is of all variables."""
    split = [value.rpartition("=") if "=" in value else ("*", "=", value) for value in values]
    return _by_pattern(split, ("bfloat16", "float16", "float32"))


def _by_pattern(values: Sequence[tuple[str, str, str]], choices: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern, sign, choice in values:
        if not pattern or choice not in choices:
            expected = f"PATTERN={', ='.join(choices[:-1])} or ={choices[-1]}"
            raise click.BadParameter(f"expected {expected}, got {pattern + sign + choice!r}")
        found.pop(pattern, None)  # Repeated: its last place counts too.
        found[pattern] = choice
    return found


def bits_per_s(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """A rate such as ``10gbit``."""
    if value is None:
        return None
    read = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", value.lower())
    if read is None or not float(read[1]):
        raise click.BadParameter(f"expected a rate such as 10gbit or 100mbit, got {value!r}")
    return float(read[1]) * UNITS[read[2]]


def doubling(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int]:
    """The first number, doubled again and again, and the last."""
    if value is None:
        return []
    read = re.fullmatch(r"(\d+):(\d+)", value)
    first, last = (int(read[1]), int(read[2])) if read else (0, 0)
    if not 1 <= first <= last <= MOST_WORKERS:
        raise click.BadParameter(
            f"expected FIRST:LAST from 1 to {MOST_WORKERS}, such as 1:4096, got {value!r}"
        )
    counts = []
    while first < last:
        counts.append(first)
        first *= 2
    return [*counts, last]


def worker_range(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    """A number of workers, or the least and the most of it."""
    read = re.fullmatch(r"(\d+)(?::(\d+))?", value)
    least = int(read[1]) if read else 0
    most = int(read[2] or least) if read else 0
    if not 1 <= least <= most:
        raise click.BadParameter(
            f"expected a number from 1 on, or MIN:MAX such as 2:4, got {value!r}"
        )
    return least, most
