"""How many times as fast as one worker are 2 to 16, on the networks of the paper?

    make bench-scaling

Computation is emulated (`emulation`), bytes and links are real. Everything is divided so that it
fits on one machine: the networks' sides and batch by S, and so the links by S^2; where workers are
many, time is stretched D times, links by D once more. Seconds in the results are those of the
emulated world: what the clock said, divided by D. Without root and iproute2 links are not shaped.

    speedup = workers x step of one worker alone / step of the slowest worker, medians of one go

Results are written after every cell; cells that the results have already are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import scaling_grid
from architectures import NETS, bytes_ratio
from architectures import net as net_named
from lab import report
from lab.hosts import QUEUE_MS, Hosts, make_hosts
from lab.members import Members
from scaling_grid import PACKET_BYTES, Cell
from scaling_members import MIRRORED_PYTHON, members_of, order_of
from scaling_step import record_timeline, record_traffic

CELLS = {
    "targets": scaling_grid.targets,
    "sweep": scaling_grid.sweep,
    "everything": scaling_grid.everything,
}
Row = dict[str, Any]


class Results:
    """The rows of `scaling.json`, old and new, by cell."""

    def __init__(self, folder: Path, *, scale: int) -> None:
        self._folder, self._scale = folder, scale
        self._rows: dict[tuple[Any, ...], Row] = {}
        path = folder / "scaling.json"
        if path.exists():
            for row in json.loads(path.read_text())["rows"]:
                self._rows[_key(row)] = row

    def has(self, cell: Cell) -> bool:
        """Whether the cell was measured, at this scale."""
        return _key({**cell._asdict(), "S": self._scale, "D": cell.dilation}) in self._rows

    def add(self, row: Row) -> None:
        """Write it at once: what is measured survives an abort."""
        self._rows[_key(row)] = row
        with contextlib.redirect_stdout(io.StringIO()):  # The table is for the end.
            self.write()

    def write(self) -> None:
        """Print the table of all rows, and write them."""
        order = sorted(self._rows, key=str)
        notes = {
            "link": "a link of B bit/s is shaped to B / S^2 / D",
            "bytes_ratio": "bytes x S^2 of the emulated network over those of the real one",
            "rebuild": "charged: after its factors have come and before its update, each dense "
            "kernel under SFB takes (workers - 1) x its weight gradient's time, which is a third "
            "of the layer's",
        }
        rows = [self._rows[key] for key in order]
        report.save("scaling", rows, folder=self._folder, notes=notes)


def measure(hosts: Hosts, cells: Sequence[Cell], options: argparse.Namespace) -> Iterator[Row]:
    """A row per cell, as soon as it is known; a job that fails is reported and left out."""
    alone_s = _alone(hosts, cells, options)
    for job in scaling_grid.jobs(cells):
        try:
            with members_of(hosts, job[0]) as members:
                for cells_of_model in scaling_grid.models(job):
                    hosts.set_rate(None)  # First values need not come over a slow link.
                    members.ask("prepare", **order_of(cells_of_model[0], options.scale))
                    for cell in cells_of_model:
                        hosts.set_rate(scaling_grid.scaled_bits_per_s(cell, options.scale))
                        step_s = _step_s(members, cell, options)
                        row = _row(
                            cell, step_s, alone_s[cell.net, cell.dilation, cell.pace], options
                        )
                        _print_progress(row)
                        yield row
        except RuntimeError as failure:
            print(f"{job[0].workers} workers, {job[0].mode}: {failure}", file=sys.stderr)
        finally:
            hosts.set_rate(None)


def _alone(
    hosts: Hosts, cells: Sequence[Cell], options: argparse.Namespace
) -> dict[tuple[str, float, str], float]:
    """Seconds of one worker's step, by network and dilation."""
    seconds = {}
    first = Cell(1, cells[0].net, "hybrid", "free", None)
    with members_of(hosts, first) as members:
        for net, dilation, pace in sorted({(c.net, c.dilation, c.pace) for c in cells}):
            cell = first._replace(net=net, pace=pace, stretch=dilation)
            members.ask("prepare", **order_of(cell, options.scale))
            seconds[net, dilation, pace] = _step_s(members, cell, options)
            print(f"{net} alone: {seconds[net, dilation, pace]:.3f} s", flush=True)
    return seconds


def _step_s(members: Members, cell: Cell, options: argparse.Namespace) -> float:
    """The slowest worker's median step, by this machine's clock."""
    count = options.warm_up + options.steps
    patience_s = 120 + 5 * count * scaling_grid.expected_step_s(cell)
    order = order_of(cell, options.scale)
    answers = members.ask("train", timeout_s=patience_s, steps=count, **order)
    medians: list[float] = []
    for answer in answers:
        ends_s = answer.get("ends_s", [])
        steps_s = [after - before for before, after in zip(ends_s, ends_s[1:], strict=False)]
        medians.append(statistics.median(answer.get("steps_s", steps_s)[-options.steps :]))
    return max(medians)


def _row(cell: Cell, step_s: float, alone_s: float, options: argparse.Namespace) -> Row:
    net, bound = net_named(cell.net), scaling_grid.bound(cell)
    speedup = cell.workers * alone_s / step_s
    return {
        **cell._asdict(),
        "S": options.scale,
        "D": cell.dilation,
        "device_s": net.device_s,
        "alone_s": alone_s / cell.dilation,
        "step_s": step_s / cell.dilation,
        "steps": options.steps,
        "queue_ms": options.queue_ms,
        "speedup": speedup,
        "bound": bound,
        "of_bound": None if bound is None else speedup / bound,
        "bound_across_step": scaling_grid.bound(cell, across_step=True),
        "bytes_ratio": bytes_ratio(net, options.scale),
    }


def _print_progress(row: Row) -> None:
    link = "unshaped" if row["gbe"] is None else f"{row['gbe']:g} GbE"
    best = "" if row["bound"] is None else f" of {row['bound']:.2f}"
    what = f"{row['net']}, {row['workers']} workers, {link}, {row['mode']}"
    charged = ", rebuild charged" if row["rebuild"] == "charged" else ""
    charged += ", queue" if row["pace"] == "queue" else ""
    charged += "" if row["updates"] == "step" else f", {row['updates']}"
    charged += "" if row["wire"] == "float32" else f", {row['wire']}"
    charged += f", D = {row['D']:g}" if row["D"] != 1 else ""
    print(f"{what}{charged}: {row['step_s']:.3f} s, {row['speedup']:.2f}{best}", flush=True)


def _key(row: Row) -> tuple[Any, ...]:
    names = ("net", "workers", "mode", "rebuild", "gbe", "S", "D", "pace")
    # Rows from before these could be chosen have none of them.
    chosen = row.get("updates", "step"), row.get("wire", "float32")
    return (*(row[name] for name in names), *chosen)


def _wanted(options: argparse.Namespace, *, is_shaped: bool) -> list[Cell]:
    if options.cells:
        cells = CELLS[options.cells]()
    elif any((options.nets, options.workers, options.gbe, options.modes)):
        cells = scaling_grid.product(
            options.nets or ["vgg19-22k"],
            options.workers or [2, 4, 8],
            options.gbe or [10.0, 40.0],
            options.modes or scaling_grid.EXCHANGING,
            options.rebuild,
        )
        cells = scaling_grid.with_updates(cells, options.updates, options.wires)
    else:
        cells = scaling_grid.selection()
    if options.pace:
        cells = [cell._replace(pace=options.pace) for cell in cells]
    if options.stretch:
        cells = [cell._replace(stretch=options.stretch) for cell in cells]
    if not is_shaped:
        print("links are not shaped: that needs root and iproute2", file=sys.stderr)
        cells = [cell._replace(gbe=None) for cell in cells]
    if any(cell.is_mirrored for cell in cells) and not MIRRORED_PYTHON.exists():
        print(f"no {MIRRORED_PYTHON}: 'mirrored' is left out", file=sys.stderr)
        cells = [cell for cell in cells if not cell.is_mirrored]
    return cells


def main() -> None:
    """Measure what is wanted and not there yet; exit with 1 where cells are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=list(NETS))
    parser.add_argument("--workers", nargs="+", type=int)
    parser.add_argument("--gbe", nargs="+", type=float, help="what the links stand for")
    parser.add_argument("--modes", nargs="+", choices=scaling_grid.MODES)
    parser.add_argument("--rebuild", choices=("free", "charged"), default="free")
    parser.add_argument("--pace", choices=("sleep", "queue"))
    parser.add_argument("--stretch", type=float, help="D")
    parser.add_argument("--updates", nargs="+", choices=scaling_grid.UPDATES, default=["step"])
    parser.add_argument("--wires", nargs="+", choices=scaling_grid.WIRES, default=["float32"])
    parser.add_argument(
        "--cells",
        choices=list(CELLS),
        help="targets: of updates across the step and 16 bits, 50 minutes; sweep: of bandwidths, "
        "with and without priorities, 12 minutes; everything: it takes hours",
    )
    parser.add_argument("--scale", type=int, default=8, help="S")
    parser.add_argument("--warm-up", type=int, default=3, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=5, help="steps that count")
    parser.add_argument("--folder", type=Path, default=report.RESULTS)
    parser.add_argument(
        "--queue-ms",
        type=float,
        default=QUEUE_MS,
        help="what may wait for a shaped link and cannot be overtaken there, by this clock",
    )
    parser.add_argument("--traffic", action="store_true", help="only the bytes on a link over time")
    parser.add_argument("--timeline", action="store_true", help="only the timeline of a step")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.traffic or options.timeline:
        record = record_traffic if options.traffic else record_timeline
        record(options)
        return
    results = Results(options.folder, scale=options.scale)
    most = max(options.workers or scaling_grid.WORKERS)
    with make_hosts(most, queue_ms=options.queue_ms, packet_bytes=PACKET_BYTES) as hosts:
        cells = [c for c in _wanted(options, is_shaped=hosts.is_shaped) if not results.has(c)]
        cells = list(dict.fromkeys(cells))
        minutes = scaling_grid.expected_s(cells, steps=options.warm_up + options.steps) / 60
        print(f"{len(cells)} cells to measure, about {minutes:.0f} minutes", flush=True)
        measured = 0
        if cells:
            for row in measure(hosts, cells, options):
                results.add(row)
                measured += 1
    results.write()
    sys.exit(measured < len(cells))


if __name__ == "__main__":
    main()
