"""How fast do sums and factors travel, against a bare gRPC echo and against the link itself?

    make bench-transport
    python benchmarks/bench_transport.py --link 10gbit

Everything runs on the loopback interface, or between two namespaces whose links are shaped: the
server in one, all workers in the other. Each figure is the median over the repeats. A repeat runs
every side once, with processes that start anew, so that what disturbs the machine for a while
disturbs all sides; a ratio is taken within a repeat, and its range stands beside its median.

GB/s are payload bytes each way of all workers together, as the server's link carries them. CPU
seconds are those of all processes while the steps run, per GB of payload, both ways added.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from lab.hosts import Hosts, LoopbackHosts, make_hosts
from lab.iperf3 import iperf3
from lab.members import Members
from lab.placed import Placed
from lab.report import RESULTS, save

from poseidon_tf.transport.connections import Protocol

WARM_UP_STEPS = 3
# A side of the table: its name, its number of workers, and what ours travels by.
Side = tuple[str, int, Protocol | None]
Figures = dict[str, float]
IPERF3, IPERF3_BOTH = "iperf3, one way", "iperf3 --bidir"
ECHO, PUSH_PULL = "bare gRPC echo", "push-pull"
PUSH, FACTORS = "push alone", "factor exchange"
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "grpc+tcp")


def sides(num_workers: list[int]) -> list[Side]:
    """Everything that a repeat measures; what is compared with each other is neighbours."""
    return [
        (IPERF3, 1, None),
        *((PUSH, count, protocol) for count in num_workers for protocol in PROTOCOLS),
        *(
            side
            for count in num_workers
            for side in [(ECHO, count, None), *((PUSH_PULL, count, each) for each in PROTOCOLS)]
        ),
        *((FACTORS, 2, protocol) for protocol in PROTOCOLS),
        (IPERF3_BOTH, 1, None),
    ]


def measure(side: Side, hosts: Hosts, options: argparse.Namespace) -> Figures | None:
    """GB/s and CPU s/GB of one side; None where iperf3 is not installed."""
    kind, num_workers, protocol = side
    if kind in (IPERF3, IPERF3_BOTH):
        return iperf3(hosts, both_ways=kind == IPERF3_BOTH, seconds=options.iperf3_seconds)
    chunk, chunks = options.pair_kib * 1024, options.mib * 1024 // options.pair_kib
    factors = options.mib * 1024 // options.factor_kib
    if kind == FACTORS:
        with Members(hosts, "transport_factors.py", count=2, python=sys.executable) as members:
            members.ask("serve", protocol=protocol)
            members.ask("start", factor_kib=options.factor_kib, count=factors)
            return steady(members, options.factor_kib * 1024 * factors, 2, options.steps)
    script = "transport_echo.py" if kind == ECHO else "transport_sums.py"
    places = Placed(hosts, [0, *[1] * num_workers])
    with Members(places, script, count=1 + num_workers, python=sys.executable) as members:
        if kind == ECHO:
            members.ask("start", chunk_bytes=chunk, chunks=chunks)
            return steady(members, chunk * chunks * num_workers, 2, options.steps)
        members.ask("serve", alone=kind == PUSH, protocol=protocol)
        members.ask("start", chunk_bytes=chunk, chunks=chunks, alone=kind == PUSH)
        if kind == PUSH:
            return pushes(members, chunk * chunks * num_workers, options)
        return steady(members, chunk * chunks * num_workers, 2, options.steps)


def steady(members: Members, step_bytes: int, ways: int, steps: int) -> Figures:
    """Steps one after the other, each of which moves `step_bytes` each way."""
    members.ask("run", steps=WARM_UP_STEPS)
    before_s = sum(members.ask("cpu"))
    # By worker: echoes of two are not in step, and one may get more of the link.
    medians_s = [statistics.median(each) for each in members.ask("run", steps=steps) if each]
    cpu_s = sum(members.ask("cpu")) - before_s
    members.ask("leave")
    return {
        "GB/s": step_bytes * statistics.mean(1 / each for each in medians_s) / 1e9,
        "CPU s/GB": cpu_s / (ways * step_bytes * steps / 1e9),
    }


def pushes(members: Members, step_bytes: int, options: argparse.Namespace) -> Figures:
    """Goes of several steps, all to the server; the sums come back afterwards, untimed."""
    seconds, cpu_s = [], []
    at_once = options.push_steps
    for _ in range(1 + -(-options.steps // at_once)):  # The first warms up.
        before_s = sum(members.ask("cpu"))
        end_s, *begins_s = members.ask("push", steps=at_once)
        cpu_s.append(sum(members.ask("cpu")) - before_s)
        # One clock for all: these processes are on one machine.
        seconds.append(end_s - min(begins_s))
        members.ask("finish", steps=at_once)
    members.ask("leave")
    return {
        "GB/s": step_bytes * at_once / statistics.median(seconds[1:]) / 1e9,
        "CPU s/GB": statistics.mean(cpu_s[1:]) / (step_bytes * at_once / 1e9),
    }


def rows(repeats: list[dict[Side, Figures]]) -> Iterator[dict[str, Any]]:
    """One row per side: medians over the repeats, and ratios within each."""
    for side in repeats[0]:
        kind, num_workers, protocol = side
        rates = [repeat[side]["GB/s"] for repeat in repeats]
        row: dict[str, Any] = {
            "what": kind,
            "protocol": protocol,
            "workers": None if kind in (IPERF3, IPERF3_BOTH) else num_workers,
            "GB/s each way": statistics.median(rates),
            "min..max": span(rates),
            "CPU s/GB": statistics.median(repeat[side]["CPU s/GB"] for repeat in repeats),
        }
        one_way = kind in (IPERF3, PUSH)
        bases: list[tuple[str, Side | None]] = [
            ("echo", (ECHO, num_workers, None) if kind == PUSH_PULL else None),
            ("iperf3", (IPERF3 if one_way else IPERF3_BOTH, 1, None)),
        ]
        for name, base in bases:
            ratios = []
            if base in repeats[0] and base != side:
                ratios = [r[side]["GB/s"] / r[base]["GB/s"] for r in repeats]
            row[f"ratio to {name}"] = statistics.median(ratios) if ratios else None
            row[f"{name} min..max"] = span(ratios) if ratios else None
        row["target"] = {PUSH: ">= 0.45 of iperf3", PUSH_PULL: ">= 0.85 of echo"}.get(kind)
        yield row


def span(values: list[float]) -> str:
    """The range of some figures, for a cell."""
    return f"{min(values):.2f}..{max(values):.2f}"


def bits_per_s(text: str) -> float:
    """A rate such as 160mbit or 2.5gbit."""
    match = re.fullmatch(r"([0-9.]+)([mg])bit", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"a rate is a number and mbit or gbit, such as 160mbit or 2.5gbit; got {text!r}"
        )
    return float(match[1]) * {"m": 1e6, "g": 1e9}[match[2]]


def main() -> None:
    """Measure, print one table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=40, help="payload of one worker, in MiB")
    parser.add_argument("--pair-kib", type=int, default=512, help="KV pair, in KiB")
    parser.add_argument("--factor-kib", type=int, default=1024, help="factors of a kernel, in KiB")
    parser.add_argument("--steps", type=int, default=20, help="steps that count, per repeat")
    # Several: a shaped link lets the first 10 ms of its rate pass at once.
    parser.add_argument("--push-steps", type=int, default=8, help="steps of a push, without pause")
    parser.add_argument("--repeats", type=int, default=3, help="how often each side starts anew")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="at the server")
    parser.add_argument("--iperf3-seconds", type=int, default=3)
    parser.add_argument("--link", type=bits_per_s, help="rate of shaped links, such as 10gbit")
    parser.add_argument("--folder", default=RESULTS, help="where transport.json goes")
    options = parser.parse_args()
    hosts = LoopbackHosts(2) if options.link is None else make_hosts(2)
    repeats: list[dict[Side, Figures]] = []
    with hosts:
        hosts.set_rate(options.link)
        for _ in range(options.repeats):
            measured = {side: measure(side, hosts, options) for side in sides(options.workers)}
            repeats.append({side: each for side, each in measured.items() if each is not None})
    save(
        "transport",
        list(rows(repeats)),
        folder=options.folder,
        link_bits_per_s=options.link,
        options={name: value for name, value in vars(options).items() if name != "folder"},
    )


if __name__ == "__main__":
    main()
