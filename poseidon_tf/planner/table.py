"""A plan as a person reads it: a table, and numbers with units."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan


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


def render(plan: Plan) -> str:
    """The table, a total under each column, and a caption.

    A column's total takes its scheme wherever a variable has it, and PS elsewhere.
    """
    from tabulate import tabulate

    from .plan import Scheme  # Which itself prints by this file.

    columns: dict[str, list[int | None]] = {
        "ps/step": [variable.ps_bytes for variable in plan.variables],
        "sfb/step": [variable.sfb_bytes for variable in plan.variables],
        "adam/step": [variable.adam_bytes for variable in plan.variables],
        "rows/step": [variable.rows_bytes for variable in plan.variables],
    }
    if not any(
        variable.scheme is Scheme.ROWS or variable.rows_bytes for variable in plan.variables
    ):
        del columns["rows/step"]
    rows = [
        [
            variable.name,
            "x".join(str(dim) for dim in variable.shape) or "scalar",
            variable.scheme.value,
            *(human_bytes(column[at]) for column in columns.values()),
            human_count(variable.rebuild_flops) if variable.rebuild_flops else "-",
            variable.reason,
        ]
        for at, variable in enumerate(plan.variables)
    ]
    flops = sum(variable.rebuild_flops for variable in plan.variables)
    totals = [
        sum(
            variable.ps_bytes if own is None else own
            for variable, own in zip(plan.variables, column, strict=True)
        )
        for column in columns.values()
    ]
    rows.append(
        [
            "total",
            "",
            "",
            *(human_bytes(total) for total in totals),
            human_count(flops) if flops else "-",
            f"as planned: {human_bytes(sum(v.node_bytes for v in plan.variables))}",
        ]
    )
    text = tabulate(
        rows,
        headers=["variable", "shape", "scheme", *columns, "rebuild", "reason"],
        tablefmt="simple",
        colalign=("left", "left", "left", *("right" for _ in columns), "right", "left"),
        disable_numparse=True,
    )
    cluster = plan.cluster
    whose = "a node with worker and server" if cluster.co_located else "a worker"
    caption = (
        f"P1 = {cluster.num_workers} workers, P2 = {cluster.num_servers} servers, "
        f"{'co-located' if cluster.co_located else 'dedicated servers'}. "
        f"Bytes in + out of {whose} per step; rebuild in FLOPs per worker."
    )
    return f"{text}\n{caption}"
