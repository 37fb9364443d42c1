"""A plan as a person reads it: a table, and numbers with units.

It is told what a row shows, and does not know `Plan`, which prints itself by this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .specs import ClusterSpec


class Row(Protocol):
    """What the table shows of a variable; see `VariablePlan`."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def scheme(self) -> object: ...  # Its text is the scheme's name.
    @property
    def sent_dtype(self) -> str: ...
    @property
    def is_rounded(self) -> bool: ...
    @property
    def ps_bytes(self) -> int: ...
    @property
    def sfb_bytes(self) -> int | None: ...
    @property
    def adam_bytes(self) -> int | None: ...
    @property
    def rows_bytes(self) -> int | None: ...
    @property
    def node_bytes(self) -> int: ...
    @property
    def rebuild_flops(self) -> int: ...
    @property
    def reason(self) -> str: ...


def human_bytes(num_bytes: int | None) -> str:
    """``14.0 MiB``; ``-`` for None."""
    if num_bytes is None:
        return "-"
    if num_bytes < 1024:
        return f"{num_bytes} B"
    return _scaled(num_bytes, 1024, ("KiB", "MiB", "GiB", "TiB", "PiB"))


def human_count(count: float) -> str:
    """``12.3 k``: powers of a thousand."""
    if count < 1000:
        return f"{count:.4g}"
    return _scaled(count, 1000, ("k", "M", "G", "T", "P", "E"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        value /= base
        if round(value, 1) < base:
            return f"{value:.1f} {unit}"
    return f"{value / base:.1f} {units[-1]}"


def render(variables: Sequence[Row], cluster: ClusterSpec) -> str:
    """The table, a total under each column, and a caption.

    A column's total takes its scheme wherever a variable has it, and PS elsewhere. Where gradients
    are rounded there is a column that shows to what, and a last line that says so.
    """
    from tabulate import tabulate  # Which training itself does not need.

    columns: dict[str, list[int | None]] = {
        "ps/step": [variable.ps_bytes for variable in variables],
        "sfb/step": [variable.sfb_bytes for variable in variables],
        "adam/step": [variable.adam_bytes for variable in variables],
        "rows/step": [variable.rows_bytes for variable in variables],
    }
    if not any(str(variable.scheme) == "rows" or variable.rows_bytes for variable in variables):
        del columns["rows/step"]
    rounded = [variable for variable in variables if variable.is_rounded]
    dtypes = [[variable.sent_dtype] * bool(rounded) for variable in variables]
    rows = [
        [
            variable.name,
            "x".join(str(dim) for dim in variable.shape) or "scalar",
            str(variable.scheme),
            *dtypes[at],
            *(human_bytes(column[at]) for column in columns.values()),
            human_count(variable.rebuild_flops) if variable.rebuild_flops else "-",
            variable.reason,
        ]
        for at, variable in enumerate(variables)
    ]
    flops = sum(variable.rebuild_flops for variable in variables)
    totals = [
        sum(
            variable.ps_bytes if own is None else own
            for variable, own in zip(variables, column, strict=True)
        )
        for column in columns.values()
    ]
    rows.append(
        [
            "total",
            "",
            "",
            *[""] * bool(rounded),
            *(human_bytes(total) for total in totals),
            human_count(flops) if flops else "-",
            f"as planned: {human_bytes(sum(v.node_bytes for v in variables))}",
        ]
    )
    headers = ["variable", "shape", "scheme", *["sent as"] * bool(rounded)]
    text = tabulate(
        rows,
        headers=[*headers, *columns, "rebuild", "reason"],
        tablefmt="simple",
        colalign=(*("left" for _ in headers), *("right" for _ in columns), "right", "left"),
        disable_numparse=True,
    )
    whose = "a node with worker and server" if cluster.co_located else "a worker"
    caption = (
        f"P1 = {cluster.num_workers} workers, P2 = {cluster.num_servers} servers, "
        f"{'co-located' if cluster.co_located else 'dedicated servers'}. "
        f"Bytes in + out of {whose} per step; rebuild in FLOPs per worker."
    )
    if rounded:
        narrow = " and ".join(sorted({variable.sent_dtype for variable in rounded}))
        caption += (
            f"\nNot lossless: of {len(variables)} gradients {len(rounded)} are rounded to {narrow} "
            "before they leave, and servers' sums of them on the way back."
        )
    return f"{text}\n{caption}"
