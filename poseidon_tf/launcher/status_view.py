"""A job's status, for people (a table) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from poseidon_tf.coordinator.messages import Figures, MemberKey
from poseidon_tf.coordinator.status import MemberStatus, Status
from poseidon_tf.planner.table import human_bytes
from poseidon_tf.session.statistics import hidden_part

_COLOURS = {"running": "green", "starting": "yellow", "failed": "red", "ended": "blue"}


def as_json(status: Status) -> dict[str, Any]:
    """The status with what follows from it, for `json.dumps`."""
    slowest = status.slowest
    return {
        "phase": status.phase,
        **asdict(status),
        "slowest": None if slowest is None else {"rank": slowest[0].rank, "times": slowest[1]},
    }


def as_table(status: Status) -> RenderableType:
    """The status as `rich` draws it."""
    parts: list[RenderableType] = [_headline(status), _table(status)]
    if status.summing:
        parts.append(_servers(status))
    if status.slowest is not None:
        member, times = status.slowest
        parts.append(Text(f"slowest: {member.name}, {times:.1f} times the fastest without waiting"))
    parts += [Text(f"{wait}", style="yellow") for wait in status.waits]
    if status.failure:
        parts.append(Text(f"failed: {status.failure}", style="red"))
    return Group(*parts)


def _headline(status: Status) -> Text:
    here = sum(member.presence == "here" for member in status.members)
    lasted = f"{status.running_s:.0f} s, {here} of {len(status.members)} members here"
    if status.restarts:
        lasted += f", restart {status.restarts}"
    return Text.assemble((status.phase, _COLOURS[status.phase]), f": {lasted}")


def _table(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("member")
    table.add_column("address")
    table.add_column("is")
    for name in ("steps", "steps/s", "step", "own", "waiting", "hidden", "sent/step", "in a ring"):
        table.add_column(name, justify="right")
    table.add_column("waits now for")
    for member in status.members:
        key = str(MemberKey(member.role, member.rank))
        figures = member.figures
        row = [] if figures is None else _row(member, figures)
        table.add_row(key, member.address, member.presence, *row)
    return table


def _servers(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("server")
    for name in ("sums", "sums/s", "summing", "came in", "went out"):
        table.add_column(name, justify="right")
    table.add_column("last to come")
    table.add_column("waits now for")
    for member, figures in status.summing:
        last = waits = ""
        if figures.last_rank >= 0:
            rank = MemberKey("worker", figures.last_rank)
            last = f"{rank}: {100 * figures.last_part:.0f} % of sums, by {_ms(figures.late_s)}"
        if member.presence == "here" and figures.waits_for:
            waited_s = figures.oldest_wait_s + member.figures_age_s
            waits = f"{figures.waits_for} ({waited_s:.0f} s)"
        table.add_row(
            str(MemberKey(member.role, member.rank)),
            str(figures.sums),
            f"{figures.sums_per_s:.3g}",
            f"{100 * figures.summing:.1f} %",
            human_bytes(figures.received_bytes),
            human_bytes(figures.sent_bytes),
            last,
            waits,
        )
    return table


def _row(member: MemberStatus, figures: Figures) -> list[str]:
    steps = max(figures.steps, 1)
    sent = figures.ps_bytes + figures.sfb_bytes + figures.rows_bytes
    hidden = hidden_part(figures.communicating_s, figures.waiting_s)
    waits = ""
    if member.presence == "here" and figures.waits_for:
        waited_s = figures.oldest_wait_s + member.figures_age_s
        waits = f"{figures.waits_for}" + f" ({waited_s:.0f} s)" * (figures.oldest_wait_s > 0.0)
    return [
        str(figures.steps),
        f"{figures.steps_per_s:.3g}",
        _ms(figures.step_s),
        _ms(figures.own_s),
        _ms(figures.waiting_s),
        f"{100 * hidden:.0f} %" if figures.communicating_s else "-",
        human_bytes(sent // steps),
        human_bytes(figures.ring_all_reduce_bytes // steps),
        waits,
    ]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds else "-"
