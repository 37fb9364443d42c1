"""What does the strategy cost where there is nothing to hide: in time per step, and in memory?

    make bench-overhead
    python benchmarks/bench_overhead.py --parts memory

- one: a step of one worker under PoseidonStrategy, against TensorFlow's OneDeviceStrategy and
  against no strategy.
- small: communication time of many small variables between two workers with servers of their own,
  against the same program as two workers that know nothing of each other, at the same time.
- seeing: what measuring and recording steps, and telling the coordinator of them, costs.
- memory: of two workers and their servers over many steps, against one worker alone.

Sides take turns within each round, with all their processes alive, and a ratio or difference is
taken within a round. Every repeat starts the processes anew.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from lab.hosts import LoopbackHosts
from lab.members import Members
from lab.report import RESULTS, save

from poseidon_tf.kv.client import WINDOW_BYTES

SCRIPT = "overhead_steps.py"
WARM_UP_STEPS = 3
MLP, MEMORY_MLP = (784, 1024, 1024, 10), (784, 1600, 2300, 10)
NUM_WORKERS = 2
Row = dict[str, Any]
# The rows of a part, and the figures that they were made of.
Part = tuple[list[Row], Any]


def start(stack: contextlib.ExitStack, strategy: str, count: int) -> Members:
    """`count` processes under one strategy."""
    hosts = stack.enter_context(LoopbackHosts(count))
    members = Members(hosts, SCRIPT, count=count, python=sys.executable, args=[strategy])
    return stack.enter_context(members)


def rounds(
    strategies: Sequence[str], count: int, options: argparse.Namespace, nets: dict[str, Row]
) -> dict[str, list[dict[str, float]]]:
    """By net, per round: the median seconds of a step by strategy; over all repeats."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in nets}
    for _ in range(options.repeats):
        with contextlib.ExitStack() as stack:
            sides = {strategy: start(stack, strategy, count) for strategy in strategies}
            for name, net in nets.items():
                for side in sides.values():
                    side.ask("build", **net)
                results[name] += [one_round(sides, turn, options) for turn in range(options.rounds)]
    return results


def one_round(
    sides: dict[str, Members], turn: int, options: argparse.Namespace
) -> dict[str, float]:
    """The median seconds of a step of each side."""
    result = {}
    # Back and forth, so that a slow drift of the machine favours neither.
    for strategy, side in list(sides.items())[:: 1 if turn % 2 == 0 else -1]:
        answers = side.ask("time_steps", warm_up=WARM_UP_STEPS, steps=options.steps)
        result[strategy] = statistics.median(value for each in answers for value in each)
    return result


def one(options: argparse.Namespace) -> Part:
    """One worker against TensorFlow's own ways to use one device."""
    sizes = {"units": options.units, "variables": options.variables}
    nets = {
        f"MLP {'-'.join(map(str, options.units))}": {"net": "mlp", "rows": 64, **sizes},
        f"{options.variables} small variables": {"net": "chain", "rows": 16, **sizes},
    }
    rows: list[Row] = []
    measured = rounds(("alone", "one_device", "none"), 1, options, nets)
    for name, results in measured.items():
        for strategy, title in (("one_device", "OneDeviceStrategy"), ("none", "no strategy")):
            ratios = [result["alone"] / result[strategy] for result in results]
            row = {
                "what": f"{name}: PoseidonStrategy alone / {title}",
                "ms": 1e3 * statistics.median(result["alone"] for result in results),
                "other ms": 1e3 * statistics.median(result[strategy] for result in results),
                "result": statistics.median(ratios),
                "unit": "ratio",
                "min..max": span(ratios),
                "target": "<= 1.01",
            }
            rows.append(row)
    return rows, measured


def small(options: argparse.Namespace) -> Part:
    """Communication time per step of many small variables."""
    name = f"{options.variables} small variables"
    net = {"net": "chain", "rows": 16, "units": (), "variables": options.variables}
    results = rounds(("cluster", "alone"), NUM_WORKERS, options, {name: net})[name]
    added_ms = [1e3 * (result["cluster"] - result["alone"]) for result in results]
    row = {
        "what": f"{name}: {NUM_WORKERS} workers - as many alone",
        "ms": 1e3 * statistics.median(result["cluster"] for result in results),
        "other ms": 1e3 * statistics.median(result["alone"] for result in results),
        "result": statistics.median(added_ms),
        "unit": "ms a step",
        "min..max": span(added_ms),
        "target": "<= 5",
    }
    return [row], results


def seeing(options: argparse.Namespace) -> Part:
    """Which part of a step goes into measuring it, recording its events, and reports.

    Of many small variables: it is by exchange, whatever the exchange's size.
    """
    net = {"net": "chain", "rows": 16, "units": (), "variables": options.variables}
    with contextlib.ExitStack() as stack:
        members = start(stack, "cluster", NUM_WORKERS)
        members.ask("build", **net)
        members.ask("time_steps", warm_up=WARM_UP_STEPS, steps=options.steps)
        measured = members.ask("seeing", repeats=options.steps)
    parts = [100 * each["seeing_s"] / each["step_s"] for each in measured]
    row = {
        "what": f"{options.variables} small variables: measuring, recording and reporting",
        "ms": 1e3 * statistics.median(each["seeing_s"] for each in measured),
        "other ms": 1e3 * statistics.median(each["step_s"] for each in measured),
        "result": max(parts),
        "unit": "% of a step",
        "min..max": span(parts),
        "target": "<= 0.5",
    }
    return [row], measured


def memory(options: argparse.Namespace) -> Part:
    """Memory of workers and servers: how much, and whether it grows."""
    samples: dict[str, list[list[Row]]] = {}
    num_bytes = 0
    for strategy, count in (("alone", 1), ("cluster", NUM_WORKERS)):
        with contextlib.ExitStack() as stack:
            members = start(stack, strategy, count)
            net = {"net": "mlp", "rows": 16, "units": options.memory_units, "variables": 0}
            num_bytes = members.ask("build", **net)[0]["bytes"]
            order = {"steps": options.memory_steps, "every": options.memory_every}
            samples[strategy] = members.ask("sample_memory", **order, timeout_s=3600.0)
    ps_mb, window_mb = num_bytes / 1e6, WINDOW_BYTES / 1e6
    alone_mb = peak(samples["alone"][0], "worker", "rss")
    server_mb = 2 * ps_mb / NUM_WORKERS + NUM_WORKERS * window_mb + 100
    rows = [{"what": "worker alone", **memory_row(samples["alone"][0], "worker")}]
    for rank, of_rank in enumerate(samples["cluster"]):
        worker = {
            "what": f"worker {rank}: RSS beyond the worker alone, {ps_mb:.0f} MB by PS",
            **memory_row(of_rank, "worker"),
            "result": peak(of_rank, "worker", "rss") - alone_mb,
            "unit": "MB",
            "target": f"<= {1.5 * ps_mb + 100:.0f}",
        }
        server = {
            "what": f"server {rank}: RSS",
            **memory_row(of_rank, "server"),
            "result": peak(of_rank, "server", "rss"),
            "unit": "MB",
            "target": f"<= {server_mb:.0f}",
        }
        rows += [worker, server]
    return rows, samples


def memory_row(samples: list[Row], role: str) -> Row:
    """The most that a process held, and its growth once the first quarter of the steps is over."""
    peaks = {f"{kind} MB": peak(samples, role, kind) for kind in ("rss", "uss", "pss")}
    steps = [sample["step"] for sample in samples]
    late = [at for at, step in enumerate(steps) if step >= steps[-1] / 4]
    late_mb = [samples[at][role]["rss"] for at in late]
    slope = np.polyfit([steps[at] for at in late], late_mb, 1)[0]
    return {**peaks, "MB per 1000 steps": 1000 * float(slope)}


def peak(samples: list[Row], role: str, kind: str) -> float:
    return max(float(sample[role][kind]) for sample in samples)


def span(values: list[float]) -> str:
    """The range of some figures, for a cell."""
    return f"{min(values):.3g}..{max(values):.3g}"


def main() -> None:
    """Measure the parts asked for; a table and a JSON file each."""
    parts = {"one": one, "small": small, "seeing": seeing, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--steps", type=int, default=50, help="steps that count, per round")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side, per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="how often each side starts anew")
    parser.add_argument("--units", type=int, nargs="+", default=MLP, help="of the MLP's layers")
    parser.add_argument("--variables", type=int, default=300, help="of the other net")
    parser.add_argument("--memory-units", type=int, nargs="+", default=MEMORY_MLP)
    parser.add_argument("--memory-steps", type=int, default=2000)
    parser.add_argument("--memory-every", type=int, default=100, help="steps between samples")
    parser.add_argument("--folder", default=RESULTS, help="where overhead-<part>.json goes")
    options = parser.parse_args()
    facts = {name: value for name, value in vars(options).items() if name != "folder"}
    for part in options.parts:
        rows, measured = parts[part](options)
        save(f"overhead-{part}", rows, folder=options.folder, options=facts, measured=measured)


if __name__ == "__main__":
    main()
