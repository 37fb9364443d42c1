"""Draws what `bench_scaling` measured: `scaling.json`, `traffic.json` and `timeline/` of a folder.

    python benchmarks/plots.py [--folder benchmarks/results]

Pictures go to the same folder, as SVG. What is not there is not drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from architectures import net as net_named
from lab import report
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling_grid import SWEEP_WORKERS, SWEEPS, Cell, bound, sweep
from scaling_step import Panel

# By mode, and by when variables are updated and what is sent where that is not as usual.
COLORS = {
    "hybrid": "tab:blue",
    "ps": "tab:orange",
    "no_overlap": "tab:red",
    "mirrored": "tab:green",
    "hybrid across": "tab:cyan",
    "hybrid across bfloat16": "tab:gray",
    "ps across": "tab:purple",
    "ps bfloat16": "tab:pink",
    "ps across bfloat16": "tab:brown",
}
LABELS = {
    "hybrid": "hybrid (planner)",
    "ps": "parameter servers only",
    "no_overlap": "parameter servers, no overlap",
    "mirrored": "MultiWorkerMirroredStrategy",
    "hybrid across": "hybrid, across the step",
    "hybrid across bfloat16": "hybrid, across the step, 16 bits",
    "ps across": "parameter servers, across the step",
    "ps bfloat16": "parameter servers, 16 bits",
    "ps across bfloat16": "parameter servers, across the step, 16 bits",
}
UPDATES = {  # Of the sweep: color and label.
    "step": ("tab:orange", "in the step"),
    "unordered": ("tab:gray", "across the step, without priorities"),
    "across": ("tab:purple", "across the step, with priorities"),
}
BANDWIDTH_WORKERS = 8
Row = dict[str, Any]


def draw_scaling(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Both pictures of the strictest emulation; the table has the others too."""
    shown = [
        row
        for row in rows
        if way(row) in LABELS and row["pace"] == "sleep" and row["stretch"] is None
    ]
    return draw_speedup(shown, folder) + draw_bandwidth(shown, folder)


def draw_speedup(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Speedup against workers: a picture per network, a panel per bandwidth."""
    written = []
    for net in _distinct(rows, "net"):
        rows_of_net = [row for row in rows if row["net"] == net]
        rates = sorted(_distinct(rows_of_net, "gbe"), key=lambda rate: rate or 0.0)
        # Other rates were measured at one number of workers; they are in the sweep.
        rates = [rate for rate in rates if rate in (None, 10.0, 40.0)] or rates[:1]
        figure, panels = plt.subplots(
            1, len(rates), figsize=(4.5 * len(rates), 4), squeeze=False, sharey=True
        )
        for panel, rate in zip(panels[0], rates, strict=True):
            shown = [row for row in rows_of_net if row["gbe"] == rate]
            counts = sorted({1, *(row["workers"] for row in shown)})
            panel.plot(counts, counts, "k--", linewidth=1, label="ideal")
            _lines(panel, shown, "workers")
            panel.set(title=_link(rate), xlabel="workers", xticks=counts)
        panels[0][0].set_ylabel("speedup over one worker")
        panels[0][0].legend(fontsize="small")
        written.append(_save(figure, f"{net}, emulated", folder / f"speedup-{net}.svg"))
    return written


def draw_bandwidth(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Speedup against bandwidth, where several were measured on 8 workers; bounds are dotted."""
    written = []
    for net in _distinct(rows, "net"):
        shown = [
            row
            for row in rows
            if row["net"] == net and row["workers"] == BANDWIDTH_WORKERS and row["gbe"] is not None
        ]
        if len(_distinct(shown, "gbe")) < 2:
            continue
        figure, panel = plt.subplots(figsize=(6, 4))
        panel.axhline(BANDWIDTH_WORKERS, color="black", linestyle="--", linewidth=1, label="ideal")
        _lines(panel, shown, "gbe")
        panel.set(xlabel="Gbit/s that a link stands for", ylabel="speedup over one worker")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize="small")
        title = f"{net} on {BANDWIDTH_WORKERS} workers, emulated"
        written.append(_save(figure, title, folder / f"bandwidth-{net}.svg"))
    return written


def draw_traffic(traffic: dict[str, Any], folder: Path) -> list[Path]:
    """What one worker's link carries over a step, the mean of the steps that were measured."""
    modes, bin_s = list(traffic["series"]), traffic["bin_s"]
    figure, panels = plt.subplots(
        len(modes), 1, figsize=(7, 2 * len(modes)), sharex=True, sharey=True, squeeze=False
    )
    # To what the bytes stand for: S^2 times as many, in a D-th of the time.
    gbit = 8 / bin_s * traffic["S"] ** 2 * traffic["D"] / 1e9
    for panel, mode in zip(panels[:, 0], modes, strict=True):
        series = traffic["series"][mode]
        for direction, style in (("out", "-"), ("in", ":")):
            mean = [value * gbit for value in _folded(series[direction], series["ends_s"], bin_s)]
            times_s = [at * bin_s / traffic["D"] for at in range(len(mean))]
            panel.plot(times_s, mean, style, color=COLORS[mode], label=direction, linewidth=1)
        backward_s = traffic["device_s"] * 2 / 3
        # Updates in the step are waited for after the backward pass; across it, in the forward
        # pass of the next, and a step ends with its backward pass.
        end_s = times_s[-1] if "across" in mode else traffic["device_s"]
        panel.axvspan(0, end_s - backward_s, color="0.93", label="forward pass")
        panel.axvspan(end_s - backward_s, end_s, color="0.85", label="backward pass")
        panel.set(title=LABELS[mode], ylabel="Gbit/s")
    panels[0, 0].legend(fontsize="x-small", loc="upper left")
    panels[-1, 0].set_xlabel("seconds from the beginning of a step")
    title = f"{traffic['net']}, {traffic['workers']} workers, {_link(traffic['gbe'])}"
    return [_save(figure, title, folder / "traffic.svg")]


def draw_sweep(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Samples per second against bandwidth: lines are the model's, dots were measured."""
    written = []
    for net, (rates, stretch) in SWEEPS.items():
        measured = sweep_rows(rows, net)
        if not measured:
            continue
        emulated = net_named(net)
        one_s = emulated.batch / emulated.device_s  # Samples per second of one worker.
        base = Cell(SWEEP_WORKERS, net, "ps", "free", None, "queue", stretch)
        steps = 60
        fine = [rates[0] + (rates[-1] - rates[0]) * at / steps for at in range(steps + 1)]
        figure, panel = plt.subplots(figsize=(6, 4))
        for updates, (color, label) in UPDATES.items():
            cells = [base._replace(gbe=rate, updates=updates) for rate in fine]
            best = [(bound(cell) or 0.0) * one_s for cell in cells]
            style = "--" if updates == "unordered" else "-"
            panel.plot(fine, best, style, color=color, linewidth=1)
            dots = sorted((r["gbe"], r["speedup"]) for r in measured if r["updates"] == updates)
            panel.plot(
                [rate for rate, _ in dots],
                [speedup * one_s for _, speedup in dots],
                "o",
                color=color,
                label=label,
            )
        panel.set(xlabel="Gbit/s that a link stands for", ylabel="samples per second")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize="small")
        title = f"{net}, {SWEEP_WORKERS} workers, parameter servers only"
        written.append(_save(figure, title, folder / f"sweep-{net}.svg"))
    return written


def sweep_rows(rows: Sequence[Row], net: str) -> list[Row]:
    """What was measured of the sweep of `net`."""
    wanted = [cell._asdict() for cell in sweep() if cell.net == net]
    return [row for row in rows if any(each.items() <= row.items() for each in wanted)]


def draw_published(rows: Sequence[Any], path: Path) -> Path:
    """Rows of `published_curves`: curves and their predictions, and every point against its own."""
    figure, (curves, points) = plt.subplots(1, 2, figsize=(10, 4.5))
    by_curve: dict[str, list[Any]] = {}
    for row in rows:
        by_curve.setdefault(f"{row.name}, {row.net}", []).append(row)
    for at, (name, found) in enumerate(by_curve.items()):
        color = f"C{at}"
        workers = [row.workers for row in found]
        published, predicted = ([getattr(row, of) for row in found] for of in _OF_PUBLISHED)
        if len(found) > 1:
            curves.plot(workers, published, "o", color=color, markersize=4)
            curves.plot(workers, predicted, "-", color=color, linewidth=1)
        points.plot(published, predicted, "o", color=color, markersize=4, label=name)
    most = max(row.workers for row in rows)
    points.plot([0.5, most], [0.5, most], "k:", linewidth=1)
    curves.set(title="published (dots) and predicted (lines)", xlabel="workers", ylabel="speedup")
    points.set(title="all points", xlabel="published speedup", ylabel="predicted speedup")
    for panel in (curves, points):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
    points.legend(fontsize="xx-small", loc="lower right")
    return _save(figure, "The model of a step against what others have published", path)


_OF_PUBLISHED = ("published", "predicted")


def draw_timeline(trace: dict[str, Any], mode: str, folder: Path) -> list[Path]:
    """The last step of one worker: each unit from "gradient ready" to "received"."""
    events = [event for event in trace["traceEvents"] if event["ph"] != "M"]
    slices = [event for event in events if event["ph"] == "X"]
    step = max(event["args"]["step"] for event in slices)
    bars = sorted(
        (event for event in slices if event["args"]["step"] == step), key=lambda e: e["ts"]
    )
    before = [e["ts"] for e in events if e["name"] == "applied" and e["args"]["step"] < step]
    backward_us = bars[0]["ts"], bars[-1]["ts"]
    # A step begins when the one before has been applied; the first has none before it.
    begin_us = max(before, default=backward_us[0])
    figure, panel = plt.subplots(figsize=(8, 1 + 0.2 * len(bars)))
    panel.axvspan(0, (backward_us[0] - begin_us) / 1e6, color="0.95", label="forward pass")
    panel.axvspan(
        *((at - begin_us) / 1e6 for at in backward_us), color="0.87", label="backward pass"
    )
    for place, bar in enumerate(bars):
        ready_s = (bar["ts"] - begin_us) / 1e6
        label = "gradient ready to received" if place == 0 else None
        panel.barh(place, bar["dur"] / 1e6, left=ready_s, color=COLORS[mode], label=label)
        panel.plot(ready_s, place, "k|", markersize=6)
    names = [_short(bar["args"]["variable"]) for bar in bars]
    panel.set_yticks(range(len(bars)), names, fontsize="x-small")
    panel.invert_yaxis()
    panel.set_xlabel("seconds from the beginning of the step")
    panel.legend(fontsize="x-small", loc="lower left")
    return [_save(figure, f"One step, {LABELS[mode]}", folder / f"timeline-{mode}.svg")]


def _lines(panel: Axes, rows: Sequence[Row], x: str) -> None:
    """A line per mode, its bound dotted; the rebuild charged is a line of its own."""
    for rebuild, style in (("free", "o-"), ("charged", "s-.")):
        for mode in LABELS:
            points = sorted(
                (row[x], row["speedup"], row["bound"])
                for row in rows
                if way(row) == mode and row["rebuild"] == rebuild
            )
            if not points:
                continue
            at, speedup, bound = zip(*points, strict=True)
            note = ", rebuild charged" if rebuild == "charged" else ""
            label = LABELS[mode] + note
            panel.plot(at, speedup, style, color=COLORS[mode], markersize=4, label=label)
            if None not in bound and rebuild == "free":
                panel.plot(at, bound, ":", color=COLORS[mode], linewidth=1)


def way(row: Row) -> str:
    """Its mode, and how it updates and what it sends where that is not as usual."""
    panel = Panel(row["mode"], row.get("updates", "step"), row.get("wire", "float32"))
    return panel.name


def _folded(values: Sequence[int], ends_s: Sequence[float], bin_s: float) -> list[float]:
    """The mean over the steps, bin by bin from the beginning of each."""
    begins = [round(end / bin_s) for end in ends_s[:-1]]
    length = min(
        round((after - before) / bin_s) for before, after in zip(ends_s, ends_s[1:], strict=False)
    )
    return [sum(values[begin + at] for begin in begins) / len(begins) for at in range(length)]


def _distinct(rows: Iterable[Row], column: str) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows))


def _link(gbe: float | None) -> str:
    return "links not shaped" if gbe is None else f"{gbe:g} GbE"


def _short(variable: str) -> str:
    """Without the number of the plan, the model's name, and how the scheme was chosen."""
    return "/".join(variable.split("/")[-2:]).replace("_by_ps", "")


def _save(figure: Figure, title: str, path: Path) -> Path:
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return path


def _draw_if_there(path: Path, draw: Callable[..., list[Path]]) -> None:
    if not path.exists():
        print(f"no {path}: not drawn")
        return
    for written in draw(json.loads(path.read_text())):
        print(f"written to {written}")


def main() -> None:
    """Draw everything that the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=report.RESULTS)
    folder = parser.parse_args().folder
    scaling = folder / "scaling.json"
    _draw_if_there(scaling, lambda found: draw_scaling(found["rows"], folder))
    _draw_if_there(scaling, lambda found: draw_sweep(found["rows"], folder))
    _draw_if_there(folder / "traffic.json", lambda found: draw_traffic(found, folder))
    for mode in ("ps", "hybrid"):
        path = folder / "timeline" / mode / "worker-0.trace.json"
        _draw_if_there(path, lambda found, mode=mode: draw_timeline(found, mode, folder))


if __name__ == "__main__":
    main()
