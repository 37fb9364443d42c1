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

    rows = [
        [
            variable.name,
            "x".join(str(dim) for dim in variable.shape) or "scalar",
            variable.scheme.value,
            human_bytes(variable.ps_bytes),
            human_bytes(variable.sfb_bytes),
            human_bytes(variable.adam_bytes),
            human_count(variable.rebuild_flops) if variable.rebuild_flops else "-",
            variable.reason,
        ]
        for variable in plan.variables
    ]
    sfb = [v.ps_bytes if v.sfb_bytes is None else v.sfb_bytes for v in plan.variables]
    adam = [v.ps_bytes if v.adam_bytes is None else v.adam_bytes for v in plan.variables]
    flops = sum(variable.rebuild_flops for variable in plan.variables)
    rows.append(
        [
            "total",
            "",
            "",
            human_bytes(sum(variable.ps_bytes for variable in plan.variables)),
            human_bytes(sum(sfb)),
            human_bytes(sum(adam)),
            human_count(flops) if flops else "-",
            f"as planned: {human_bytes(sum(v.node_bytes for v in plan.variables))}",
        ]
    )
    headers = ["variable", "shape", "scheme", "ps/step", "sfb/step", "adam/step", "rebuild"]
    text = tabulate(
        rows,
        headers=[*headers, "reason"],
        tablefmt="simple",
        colalign=("left", "left", "left", "right", "right", "right", "right", "left"),
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
