"""The report: one page of HTML that needs nothing but itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from poseidon_tf.launcher.report.picture import LEGEND, milliseconds, picture
from poseidon_tf.launcher.report.steps import (
    Lateness,
    Step,
    Timeline,
    late_units,
    late_workers,
)
from poseidon_tf.planner.table import human_bytes
from poseidon_tf.session.statistics import hidden_part
from poseidon_tf.trace import Run

_MOST_UNITS = 20
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em;
  color: #1c2733; background: #fff }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d5dde5 }
table { border-collapse: collapse; margin: .6em 0 }
th, td { padding: .25em .9em; text-align: right }
th { font-weight: 600; border-bottom: 2px solid #d5dde5 } td:first-child, th:first-child {
  text-align: left } tr:nth-child(even) td { background: #f4f7f9 }
pre { overflow-x: auto; background: #f4f7f9; padding: 1em; font-size: 12px }
svg { width: 100%; height: auto; margin-top: .6em } .name { font-size: 10px; fill: #1c2733 }
.bold { font-weight: 600; font-size: 12px } .axis { font-size: 10px; fill: #5c6b7a }
.tick { stroke: #d5dde5; stroke-width: 1 } .notch { stroke: #000; stroke-width: 1.5 }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1.2em;
  vertical-align: -.1em } .note { color: #5c6b7a }
"""


def page(timeline: Timeline, runs: Sequence[Run] = (), at: int = 1) -> str:
    """The report of a timeline, as HTML.

    Args:
      runs: of the job, the newest first; the timeline is of number `at`, counted from 1.
    """
    sections = [
        _runs(runs, at),
        _summary(timeline.about),
        _servers(timeline.about),
        _step(timeline),
        _late(timeline.steps),
        _plan(timeline),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>poseidon_tf: report of a job</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>Report of a job</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _runs(runs: Sequence[Run], at: int) -> str:
    if len(runs) < 2:
        return ""
    rows = []
    for number, run in enumerate(runs, start=1):
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.number / 1e9))
        rows.append(
            [
                f"{number}{' (this report)' * (number == at)}",
                began if run.number else "not known",
                ", ".join(run.processes),
                "; ".join(run.reasons),
            ]
        )
    table = _table(["--run", "began", "traces of", "last events written because of"], rows)
    return (
        f"<h2>Runs of the job</h2>{table}"
        '<p class="note">The job was started anew. A process that ends in order takes the place of '
        "the same one of the run before; of others there is what they had in memory.</p>"
    )


def _summary(about: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    notes = []
    for name, each in about.items():
        if why := each.get("written because"):
            notes.append(f"{name} has written its last events because of: {why}")
        told = each.get("statistics")
        if not told:
            continue
        times, steps = told["step_times"], max(told["steps"], 1)
        sent = sum(told[scheme]["network_bytes"] for scheme in ("ps", "sfb", "rows"))
        hidden = hidden_part(times["communicating_s"], times["waiting_s"])
        rows.append(
            [
                name,
                str(told["steps"]),
                milliseconds(1e6 * times["step_s"]),
                milliseconds(1e6 * times["own_s"]),
                milliseconds(1e6 * times["waiting_s"]),
                milliseconds(1e6 * times["communicating_s"]),
                f"{100 * hidden:.0f} %",
                human_bytes(sent // steps),
                human_bytes(told["ring_all_reduce_bytes"] // steps),
            ]
        )
    head = ["", "steps", "a step", "without waiting", "waiting", "communication", "of it hidden"]
    table = _table([*head, "sent a step", "in a ring"], rows) if rows else ""
    text = "".join(f"<p>{escape(note)}</p>" for note in notes)
    nothing = "" if rows or notes else "<p>No process has written how it went.</p>"
    return (
        f"<h2>Summary</h2>{text}{table}{nothing}"
        '<p class="note">Times are medians of the last steps. Sent: what all processes have sent '
        "over the network, divided by the number of workers; in a ring: what each worker would "
        "have sent of the same gradients.</p>"
    )


def _servers(about: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            str(told["sums"]),
            milliseconds(1e6 * told["summing_s"]),
            human_bytes(told["received_bytes"]),
            human_bytes(told["sent_bytes"]),
            told["waits_for"],
        ]
        for name, each in about.items()
        if (told := each.get("figures"))
    ]
    if not rows:
        return ""
    table = _table(["", "sums", "summing", "came in", "went out", "waited in the end for"], rows)
    return (
        f"<h2>Servers</h2>{table}"
        '<p class="note">Since each began, or until it wrote its last events. Summing is the time '
        "in which it took contributions and added them; bytes are those that crossed the "
        "network.</p>"
    )


def _step(timeline: Timeline) -> str:
    step = timeline.typical
    if step is None:
        return "<h2>A step</h2><p>No step is there whole, of all workers.</p>"
    keys = "".join(
        f'<span class="key" style="background:{colour}"></span>{name}'
        for name, colour in LEGEND.items()
    )
    waits = "".join(f"<li>{escape(wait)}</li>" for wait in _waits(step))
    return (
        f"<h2>Step {step.number}, of median length: {milliseconds(step.lasted_us)}</h2>"
        f"<p>{keys}</p>{picture(step, dict(timeline.schemes))}"
        '<p class="note">A bar for each worker, and a line for each of its exchanges: from when '
        "the gradient was ready to when the sum was there; pale until it was sent; a notch where "
        "the sum had left the servers. Forward is all between two steps' gradients, the input "
        f"included. Point at a line for its times.</p><h3>Who waited for whom</h3><ul>{waits}</ul>"
    )


def _waits(step: Step) -> Iterable[str]:
    for worker in step.workers:
        waited = milliseconds(worker.end_us - worker.ready_us)
        rank, late_us = step.sent_last(worker.last.unit)
        of = "it" if rank == worker.rank else f"worker rank {rank}"
        yield (
            f"worker rank {worker.rank} waited {waited}, at last for {worker.last.unit}, which "
            f"{of}{' itself' * (rank == worker.rank)} was the last to send, "
            f"{milliseconds(late_us)} after the first"
        )


def _late(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    workers, units = late_workers(steps), late_units(steps)
    more = len(units) - _MOST_UNITS
    return (
        f"<h2>Who and what was late, in {len(steps)} steps</h2>"
        + _late_table(
            ["worker", "had its gradients last", "so much later than the first (median)"], workers
        )
        + _late_table(
            ["variables", "waited for to the end", "for so long (median)"], units[:_MOST_UNITS]
        )
        + (f'<p class="note">and {more} more</p>' if more > 0 else "")
    )


def _late_table(head: list[str], found: Iterable[Lateness]) -> str:
    return _table(
        head, [[each.name, str(each.times), milliseconds(each.median_us)] for each in found]
    )


def _plan(timeline: Timeline) -> str:
    plans = [plan for each in timeline.about.values() for plan in each.get("plans", ())]
    if not plans:
        return ""
    return "<h2>Plan</h2>" + "".join(f"<pre>{escape(plan)}</pre>" for plan in plans)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"
