"""Does a plan by time train faster than one by bytes? Both jobs take turns on the same links.

    make bench-plans

Cells where both should make the same plan, and three where bytes mislead: products of factors that
take longer than gradients would, a long way to the servers, a slow server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab import report
from lab.far_hosts import FarHosts
from lab.hosts import Hosts, make_hosts
from lab.members import Members
from lab.peers import ROWS
from nets import NETS

from poseidon_tf.planner import Plan

BENCHMARKS = Path(__file__).resolve().parent
WORKERS = 2
BY = ("bytes", "time")
TARGET, SLOWEST = 0.9, 1.02  # Steps by time over those by bytes: where bytes mislead, and at most.
# What both jobs train first: trace, have one epoch to look back at, and trace what that changed.
EPOCHS, EPOCH_STEPS = 3, 5


class Case(NamedTuple):
    """One net on one set of links.

    Attributes:
      bits_per_s: of all links; None for as fast as they go.
      servers: of their own, one on each further host; none for one on each worker's host.
      server_bits_per_s: of their links, where they have others than the workers.
      delay_s: of every packet.
      misleads: bytes lead to a plan that is slower.
    """

    what: str
    net: str
    rows: int = ROWS
    bits_per_s: float | None = None
    servers: int = 0
    server_bits_per_s: float | None = None
    delay_s: float = 0.0
    misleads: bool = False


CASES = [
    *(
        Case(f"{net}, {link}", net, bits_per_s=bits_per_s)
        for net in ("mlp", "alexnet")
        for link, bits_per_s in (("10 Gbit/s", 10e9), ("1 Gbit/s", 1e9), ("100 Mbit/s", 100e6))
    ),
    # Two products of 34 and 7 GFLOP more, or 40 MB more each way on a link that is idle.
    Case("slow products", "mlp", rows=1024, bits_per_s=10e9, misleads=True),
    # A sum comes from its server, a way after the last gradient arrived there.
    Case("far servers", "narrow", rows=32, delay_s=0.02, misleads=True),
    Case(
        "slow server",
        "square",
        rows=768,
        bits_per_s=10e9,
        servers=1,
        server_bits_per_s=1e9,
        misleads=True,
    ),
]
UNSHAPED = [Case("mlp, unshaped", "mlp"), Case("alexnet, unshaped", "alexnet")]
SMALL = [Case("tiny, unshaped", "tiny")]


def measure(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each case, as soon as it is known."""
    for case in cases:
        with _hosts(case) as hosts, contextlib.ExitStack() as stack:
            jobs = {}
            for by in BY:  # One starts when the other is ready: it measures as it starts.
                jobs[by] = stack.enter_context(_members(hosts, case, by))
                for _ in range(EPOCHS):
                    jobs[by].ask("train", **_order(case), warm_up=1, steps=EPOCH_STEPS)
            yield _row(case, jobs, options)


def _order(case: Case) -> dict[str, Any]:
    return {"net": case.net, "rows": case.rows}


def _row(case: Case, jobs: dict[str, Members], options: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {by: [] for by in BY}
    steps = {"warm_up": options.warm_up, "steps": options.steps}
    row: dict[str, Any] = {"case": case.what, "workers": WORKERS, "rows": case.rows}
    for _ in range(options.rounds):
        for by, members in jobs.items():
            answers = members.ask("train", **_order(case), **steps)
            seconds[by].append(max(statistics.median(each["seconds"]) for each in answers))
            row[f"by {by}"] = _schemes(answers[0])
    for by in BY:
        row[f"by {by}, s"] = statistics.median(seconds[by])
    pairs = zip(seconds["time"], seconds["bytes"], strict=True)
    row["time / bytes"] = statistics.median(one / other for one, other in pairs)
    row["wanted"] = TARGET if case.misleads else SLOWEST
    return row


def _schemes(answer: dict[str, Any]) -> str:
    """Of the kernels, from the input up, such as "ps sfb sfb"."""
    plan = Plan.from_json(answer["plan"])
    schemes = {variable.name: variable.scheme.value for variable in plan.variables}
    return " ".join(schemes[name] for name in answer["names"] if name.endswith("/kernel"))


@contextlib.contextmanager
def _hosts(case: Case) -> Iterator[Hosts]:
    """With links as the case says."""
    count = WORKERS + case.servers
    hosts = FarHosts(count, delay_s=case.delay_s) if case.delay_s else make_hosts(count)
    with hosts:
        if not case.delay_s:
            hosts.set_rate(case.bits_per_s)
        if case.server_bits_per_s is not None:
            for server in range(WORKERS, count):
                hosts.set_rate(case.server_bits_per_s, only=server)
        yield hosts


def _members(hosts: Hosts, case: Case, by: str) -> Members:
    args = [json.dumps({"plan_by": by, "defer_updates": False})]
    script, python = "foresight_fit.py", sys.executable
    environ = {"PYTHONPATH": str(BENCHMARKS)}  # For `nets`.
    return Members(
        hosts,
        script,
        count=WORKERS,
        servers=case.servers,
        python=python,
        args=args,
        environ=environ,
    )


def read_options(cases: Sequence[Case]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [case.what for case in cases]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3, help="of each job, in turn")
    parser.add_argument("--steps", type=int, default=6, help="of a round, that count")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before these")
    parser.add_argument("--small", action="store_true", help="one case, in seconds")
    parser.add_argument("--folder", type=Path, default=report.RESULTS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write JSON."""
    cases = CASES if make_hosts(WORKERS).is_shaped else UNSHAPED
    options = read_options(cases)
    assert all(case.net in NETS for case in cases)
    chosen = SMALL if options.small else [case for case in cases if case.what in options.cases]
    rows = []
    for row in measure(chosen, options):
        print(json.dumps(row), flush=True)
        rows.append(row)
    late = [row["case"] for row in rows if row["time / bytes"] > row["wanted"]]
    report.save("plans", rows, folder=options.folder, missed=late)


if __name__ == "__main__":
    main()
