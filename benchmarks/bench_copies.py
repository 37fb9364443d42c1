"""How often is a gradient's byte copied in memory, between a worker and its server and back?

    make bench-copies

Everything that copies in a process (memcpy, memmove) is counted by valgrind's DHAT, at every
process of a small exchange. What starting costs is taken out: a long run less a short one. Counts
do not depend on the machine or its load. The kernel's two copies per connection, into a socket and
out of it, are not seen.

A figure is bytes copied by a process per byte of one worker's gradients. A worker sends each of
them and receives the sum; a server receives those of every worker, and sends each the sum.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from lab.hosts import Hosts, LoopbackHosts
from lab.members import Members
from lab.placed import Borrowed, Placed
from lab.report import RESULTS, save

from poseidon_tf.transport.connections import Protocol

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "grpc+tcp")
SHORT_STEPS = 2
NUM_FACTORS = 2  # Kernels of the exchange of factors.
Copies = Counter[tuple[str, ...]]


@final
class CountedHosts(Borrowed):
    """`hosts`, each process of which counts its copies and leaves the result in `folder`."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        super().__init__(hosts)
        self._folder = folder

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        valgrind = ["valgrind", "--quiet", "--tool=dhat", "--mode=copy"]
        output = f"--dhat-out-file={self._folder / f'{host}.json'}"
        return [*valgrind, output, *super().command(host, command)]


def copies(profile: dict[str, Any]) -> Copies:
    """Bytes copied, by the functions that called for it, innermost first.

    Args:
      profile: what DHAT writes: places `pps`, whose frames `fs` are numbers of names in `ftbl`.
    """
    found: Copies = Counter()
    names = [_function(frame) for frame in profile["ftbl"]]
    for place in profile["pps"]:
        found[tuple(names[frame] for frame in place["fs"])] += place["tb"]
    return found


def _function(frame: str) -> str:
    """The name in "0x48412AF: memmove (vg_replace_strmem.c:1398)"."""
    return frame.partition(": ")[2].partition(" (")[0] or frame


def run(
    kind: str, num_workers: int, protocol: Protocol, steps: int, options: argparse.Namespace
) -> list[Copies]:
    """The copies of every process of one exchange, a server first where there is one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_members = num_workers + (kind == "sums")
        hosts = CountedHosts(Placed(LoopbackHosts(2), [0, *[1] * (num_members - 1)]), folder)
        script = f"transport_{kind}.py"
        with Members(hosts, script, count=num_members, python=sys.executable) as members:
            if kind == "sums":
                chunks = options.mib * 1024 // options.pair_kib
                members.ask("serve", alone=False, protocol=protocol)
                members.ask(
                    "start", chunk_bytes=options.pair_kib * 1024, chunks=chunks, alone=False
                )
            else:
                members.ask("serve", protocol=protocol)
                factor_kib = options.mib * 1024 // NUM_FACTORS
                members.ask("start", factor_kib=factor_kib, count=NUM_FACTORS)
            members.ask("run", steps=steps)
            members.ask("leave")
        return [
            copies(json.loads((folder / f"{rank}.json").read_text())) for rank in range(num_members)
        ]


def measure(
    kind: str, num_workers: int, protocol: Protocol, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for the server, if there is one, and for the first worker."""
    short = run(kind, num_workers, protocol, SHORT_STEPS, options)
    long = run(kind, num_workers, protocol, SHORT_STEPS + options.steps, options)
    num_bytes = options.mib * 2**20 * options.steps
    roles = ["server", "worker"] if kind == "sums" else ["worker"]
    rows = []
    for role, fewer, more in zip(roles, short, long, strict=False):
        added = {place: more[place] - fewer[place] for place in more}
        most = sorted(added.items(), key=lambda item: -item[1])[: options.places]
        row = {
            "what": kind,
            "workers": num_workers,
            "protocol": protocol,
            "process": role,
            "copies": (more.total() - fewer.total()) / num_bytes,
            "where": "; ".join(
                f"{count / num_bytes:.2f} {' < '.join(place[:3])}"
                for place, count in most
                if count > num_bytes / 100
            ),
        }
        rows.append(row)
    return rows


def main() -> None:
    """Count, print one table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=4, help="payload of one worker, in MiB")
    parser.add_argument("--pair-kib", type=int, default=512, help="KV pair, in KiB")
    parser.add_argument("--steps", type=int, default=10, help="steps that count")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="at the server")
    parser.add_argument("--places", type=int, default=5, help="places that are named, per process")
    parser.add_argument("--folder", default=RESULTS, help="where copies.json goes")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed; on Debian: apt-get install valgrind")
    rows: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        for num_workers in options.workers:
            rows += measure("sums", num_workers, protocol, options)
        rows += measure("factors", 2, protocol, options)
    facts = {name: value for name, value in vars(options).items() if name != "folder"}
    save("copies", rows, folder=options.folder, options=facts)


if __name__ == "__main__":
    main()
