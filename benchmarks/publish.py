"""Writes what was measured of updates across the step, and of 16 bits, into the documentation.

    python benchmarks/publish.py [--folder benchmarks/results] [--docs docs]

Reads `scaling.json`, `traffic.json` and `peers.json` of the folder. Pictures go to
`benchmarks/` of the documentation, tables to its `benchmarks.md`, between the comments
`<!-- measured: NAME -->` and `<!-- end of NAME -->`. What is not there leaves its place as it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import scaling_grid
from lab import report
from lab.peers import MODES
from plots import draw_sweep, draw_traffic, sweep_rows
from scaling_grid import STRETCH_OF_TARGETS, SWEEP_WORKERS, SWEEPS, UPDATES, Cell
from tabulate import tabulate

DOCS = Path(__file__).resolve().parent.parent / "docs"
HALVED_TARGET = 0.55  # A step of 16 bits over one of 32, where the link is all.
Row = dict[str, Any]


class Target(NamedTuple):
    """What a cell is to reach.

    Attributes:
      cell: with a queue of layers; the one without it is beside it.
      step_ratio: the target is of its step over that with updates in the step, and not to be
        exceeded; otherwise of its speedup, and to be reached.
    """

    what: str
    cell: Cell
    target: float
    step_ratio: bool = False


def _cell(workers: int, net: str, mode: str, gbe: float, wire: str = "float32") -> Cell:
    return Cell(workers, net, mode, "free", gbe, "queue", STRETCH_OF_TARGETS, "across", wire)


TARGETS = (
    Target("VGG19-22K, PS only, 10 GbE, 4 workers", _cell(4, "vgg19-22k", "ps", 10.0), 3.1),
    Target("the same, 8 workers", _cell(8, "vgg19-22k", "ps", 10.0), 5.2),
    Target("the same, 16 workers", _cell(16, "vgg19-22k", "ps", 10.0), 9.5),
    Target("VGG19-22K, hybrid, 2 GbE, 8 workers", _cell(8, "vgg19-22k", "hybrid", 2.0), 7.4),
    Target("VGG19, PS only, 10 GbE, 8 workers", _cell(8, "vgg19", "ps", 10.0), 7.5),
    Target("ResNet-152, hybrid, 2 GbE, 8 workers", _cell(8, "resnet-152", "hybrid", 2.0), 2.45),
    Target(
        "VGG19-22K, PS only, 16 bits, 10 GbE, 8 workers",
        _cell(8, "vgg19-22k", "ps", 10.0, "bfloat16"),
        7.5,
    ),
    Target(
        "VGG19-22K, hybrid, 10 GbE, 8 workers: step over that of updates in the step",
        _cell(8, "vgg19-22k", "hybrid", 10.0),
        1.01,
        step_ratio=True,
    ),
)


def across(found: dict[str, Any]) -> str:
    """The targets, and what was reached. Speedups over one worker, unless a row says otherwise."""
    rows = []
    for target in TARGETS:
        cell = target.cell
        in_step = cell._replace(updates="step")
        reached = _reached(found, target, pace="queue")
        row: Row = {"what": target.what, "bound in the step": "", "bound": ""}
        if not target.step_ratio:
            row["bound in the step"] = _figure(scaling_grid.bound(in_step))
            row["bound"] = _figure(scaling_grid.bound(cell))
        row |= {
            "target": f"{'<=' if target.step_ratio else '>='} {target.target}",
            "reached": _figure(reached),
            "without the queue": _figure(_reached(found, target, pace="sleep")),
            "in the step": "" if target.step_ratio else _figure(_value(found, in_step, "speedup")),
            "result": _result(reached, target.target, at_most=target.step_ratio),
        }
        rows.append(row)
    return f"{_table(rows)}\n\n{_machine(found)}"


def _reached(found: dict[str, Any], target: Target, *, pace: str) -> float | None:
    cell = target.cell._replace(pace=pace)
    if not target.step_ratio:
        return _value(found, cell, "speedup")
    in_step = cell._replace(updates="step")
    return _ratio(_value(found, cell, "step_s"), _value(found, in_step, "step_s"))


def sweep(found: dict[str, Any]) -> str:
    """Speedups of the model and of the emulation, by bandwidth; the pictures."""
    rows = []
    for net, (rates, stretch) in SWEEPS.items():
        for rate in rates:
            row: Row = {"net": net, "GbE": f"{rate:g}", "D": f"{stretch:g}"}
            for updates, title in zip(UPDATES, ("step", "across", "no priorities"), strict=True):
                cell = Cell(SWEEP_WORKERS, net, "ps", "free", rate, "queue", stretch, updates)
                row[f"{title}: bound"] = _figure(scaling_grid.bound(cell))
                row[f"{title}: reached"] = _figure(_value(found, cell, "speedup"))
            rows.append(row)
    pictures = [f"![throughput against bandwidth](benchmarks/sweep-{net}.svg)" for net in SWEEPS]
    return "\n\n".join([_table(rows), *pictures, _machine(found)])


def peers(found: dict[str, Any]) -> str:
    """Milliseconds of a step of every system, and the ratios of those with a target."""
    ms = {(r["link"], r["net"], r["system"]): r["step ms"] for r in found["rows"]}
    places = list(dict.fromkeys((r["link"], r["net"]) for r in found["rows"]))
    rows = []
    for link, net in places:
        row: Row = {"net": net, "link": link}
        for system in found["systems"]:
            row[system] = _figure(ms.get((link, net, system)), digits=0)
        in_step = ms.get((link, net, MODES["step"]))
        for mode in ("across", "16-bits", "across-16-bits"):
            row[f"{mode} / step"] = _figure(_ratio(ms.get((link, net, MODES[mode])), in_step))
        rows.append(row)
    halved = _ratio(*(ms.get(("1gbit", "mlp", MODES[mode])) for mode in ("16-bits", "step")))
    target = [
        {
            "what": "MLP, PS only, 1 Gbit/s: step of 16 bits over that of 32",
            "target": f"<= {HALVED_TARGET}",
            "reached": _figure(halved),
            "result": _result(halved, HALVED_TARGET, at_most=True),
        }
    ]
    return "\n\n".join([_table(rows), _table(target), _machine(found)])


def replace_block(page: str, name: str, text: str) -> str:
    """`page` with `text` in the block `name`.

    Raises:
      ValueError: the page has no such block.
    """
    begin, end = f"<!-- measured: {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, ends, after = rest.partition(end)
    if not found or not ends:
        raise ValueError(f"no block {name!r}: between {begin.strip()} and {end}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def _value(found: dict[str, Any], cell: Cell, column: str) -> float | None:
    wanted = cell._asdict().items()
    return next((row[column] for row in found["rows"] if wanted <= row.items()), None)


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value and to else None


def _result(reached: float | None, target: float, *, at_most: bool) -> str:
    if reached is None:
        return "not measured"
    missed_by = reached / target - 1 if at_most else 1 - reached / target
    return "met" if missed_by <= 0 else f"missed by {max(missed_by, 0.001):.1%}"


def _figure(value: float | None, *, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(rows: Sequence[Row]) -> str:
    # tabulate would read figures, and write them in its own way.
    return str(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def _machine(found: dict[str, Any]) -> str:
    facts = found["machine"]
    versions = f"TensorFlow {facts['tensorflow']}, grpcio {facts['grpcio']}"
    host = f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}"
    return f"Measured on {facts['date'][:10]}: {host}, {versions}, commit {facts['commit']}."


def main() -> None:
    """Write what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=report.RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    page, pictures = options.docs / "benchmarks.md", options.docs / "benchmarks"
    blocks: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
        "across": ("scaling.json", across),
        "sweep": ("scaling.json", sweep),
        "peers-across": ("peers.json", peers),
    }
    text = page.read_text()
    for name, (results, write) in blocks.items():
        path = options.folder / results
        if not path.exists():
            print(f"no {path}: {name} stays as it was")
            continue
        found = json.loads(path.read_text())
        if name == "sweep":
            if not any(sweep_rows(found["rows"], net) for net in SWEEPS):
                print(f"{path} has nothing of it: {name} stays as it was")
                continue
            draw_sweep(found["rows"], pictures)
        text = replace_block(text, name, write(found))
        print(f"{name} is written to {page}")
    page.write_text(text)
    traffic = options.folder / "traffic.json"
    if traffic.exists():
        draw_traffic(json.loads(traffic.read_text()), pictures)
        print(f"traffic.svg is written to {pictures}")


if __name__ == "__main__":
    main()
