"""How long does a job take to start, beyond what its workers would take alone?

    make bench-overhead

All processes import everything first; that is theirs, not ours. Then they begin together: eight
workers with a server each, and in turn, anew, the same eight as workers that know nothing of each
other. A part of the way ends when the last worker is through, so the parts add up; what a part
costs is the difference between the two jobs. CPU seconds are those of all workers and their servers
together; on a machine that others use they say more than the clock. Beside it stands the CPU time
that one server needs to be ready: an interpreter and its imports.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lab.hosts import LoopbackHosts
from lab.members import PINNED, Members
from lab.report import RESULTS, save

SCRIPT = "startup_steps.py"
NOTHING = (0.0, 0.0)
SERVER = "poseidon_tf.launch.server_main"
# Where the server's imports come from, and how much none at all costs.
IMPORTS = {
    "an interpreter without imports": "pass",
    "... with numpy": "import numpy",
    "... with grpc": "import grpc",
    "... with all that a server imports": f"import {SERVER}",
}
Row = dict[str, Any]


def start_job(strategy: str, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """From the common begin until the last worker is through each part, in order.

    Seconds, and the CPU seconds of all.
    """
    with (
        LoopbackHosts(options.workers) as hosts,
        Members(
            hosts, SCRIPT, count=options.workers, python=sys.executable, args=[strategy]
        ) as members,
    ):
        members.ask("ready")
        answers = members.ask("begin", units=options.units, rows=options.rows)
    begin_s = min(answer["begin"][0] for answer in answers)
    begin_cpu_s = sum(answer["begin"][1] for answer in answers)
    # One clock for all: these processes are on one machine.
    return {
        part: (
            max(answer[part][0] for answer in answers) - begin_s,
            sum(answer[part][1] for answer in answers) - begin_cpu_s,
        )
        for part in answers[0]
        if part != "begin"
    }


def starts(options: argparse.Namespace) -> Iterator[Row]:
    """One row per part of the way, and the whole."""
    pairs = [
        (start_job("cluster", options), start_job("alone", options)) for _ in range(options.repeats)
    ]
    parts = list(pairs[0][0])
    for at, part in enumerate(parts):
        before = parts[at - 1] if at else ""
        lengths = [
            [
                [
                    end - begin
                    for end, begin in zip(ends[part], ends.get(before, NOTHING), strict=True)
                ]
                for ends in pair
            ]
            for pair in pairs
        ]
        yield row(part, lengths, target=None)
    yield row(
        "whole way to the end of the first step",
        [[ends[parts[-1]] for ends in pair] for pair in pairs],
        target="<= 1.0",
    )


def length(begin: Sequence[float], end: Sequence[float]) -> list[float]:
    """Seconds and CPU seconds from one mark to another."""
    return [after - before for before, after in zip(begin, end, strict=True)]


def row(what: str, pairs: Sequence[Sequence[Sequence[float]]], *, target: str | None) -> Row:
    """Medians of both jobs and of their difference.

    Args:
      pairs: of each repeat, of both jobs: seconds and CPU seconds.
    """
    beyond, beyond_cpu = (
        [together[kind] - alone[kind] for together, alone in pairs] for kind in (0, 1)
    )
    return {
        "what": what,
        "together s": statistics.median(together[0] for together, _ in pairs),
        "alone s": statistics.median(alone[0] for _, alone in pairs),
        "beyond s": statistics.median(beyond),
        "min..max": f"{min(beyond):.2f}..{max(beyond):.2f}",
        "CPU together s": statistics.median(together[1] for together, _ in pairs),
        "CPU alone s": statistics.median(alone[1] for _, alone in pairs),
        "CPU beyond s": statistics.median(beyond_cpu),
        "CPU min..max": f"{min(beyond_cpu):.2f}..{max(beyond_cpu):.2f}",
        "target": target,
    }


def server_cpu(options: argparse.Namespace) -> Iterator[Row]:
    """CPU seconds until a server process could listen."""
    for what, program in IMPORTS.items():
        seconds = [cpu_of(program) for _ in range(options.server_repeats)]
        yield {
            "what": what,
            "CPU s": statistics.median(seconds),
            "min..max": f"{min(seconds):.2f}..{max(seconds):.2f}",
        }


def cpu_of(program: str) -> float:
    """CPU seconds of a Python process that runs `program`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **PINNED}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure; a table and a JSON file for the job, and for a server process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8, help="each with a server of its own")
    parser.add_argument("--repeats", type=int, default=3, help="how often both jobs start")
    parser.add_argument("--units", type=int, nargs="+", default=(784, 1024, 1024, 10))
    parser.add_argument("--rows", type=int, default=16, help="of one worker's batch")
    parser.add_argument("--server-repeats", type=int, default=5)
    parser.add_argument("--folder", default=RESULTS, help="where startup*.json go")
    options = parser.parse_args()
    facts = {name: value for name, value in vars(options).items() if name != "folder"}
    save("startup", list(starts(options)), folder=options.folder, options=facts)
    save("startup-server", list(server_cpu(options)), folder=options.folder, options=facts)


if __name__ == "__main__":
    main()
