"""How long does a step take, against TensorFlow's own strategy, PyTorch DDP, Keras on JAX and one
worker alone?

    make bench-peers

Two workers, a global batch of 64. As root, every worker is a host of its own, whose link is
shaped. All systems are started at once and take turns, so that they are measured side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from lab import report
from lab.hosts import Hosts, make_hosts
from lab.iperf3 import iperf3
from lab.peers import MODES, SYSTEMS, USUAL, Peers
from nets import NETS

LINKS = {"unshaped": None, "10gbit": 10e9, "1gbit": 1e9, "100mbit": 100e6}
SLOW_BITS_PER_S = 200e6  # Below, a step takes seconds, and noise is nothing to it.
SLOW_STEPS = 3
PEERS = ("mirrored", "ddp", "jax")
Row = dict[str, Any]


def measure(hosts: Hosts, peers: Peers, options: argparse.Namespace) -> Iterator[Row]:
    """One row for each link, net and system, as soon as it is known."""
    for net in options.nets:
        for system in options.systems:
            # Built, traced, and first values sent, before any link is slow.
            peers.train(system, net, warm_up=1, steps=1)
    predicts = {"alone", "ps"} <= set(options.systems)
    for link in options.links:
        rate = LINKS[link]
        hosts.set_rate(rate)
        is_slow = rate is not None and rate < SLOW_BITS_PER_S
        steps = min(options.steps, SLOW_STEPS) if is_slow else options.steps
        warm_up = 1 if is_slow else options.warm_up
        carried = iperf3(hosts, both_ways=True, seconds=3) if rate and predicts else None
        for net in options.nets:
            for system in options.systems:
                times = peers.train(system, net, warm_up=warm_up, steps=steps)
                row: Row = {"link": link, "net": net, "system": system, "steps": steps}
                row["step ms"] = times["seconds"] * 1e3
                row["steps/s"] = 1 / times["seconds"]
                row["link MB/step"] = times["link_bytes"] / 1e6
                if system == "ps" and carried is not None:
                    begin_s = peers.first_gradient(net, warm_up=warm_up, steps=options.steps)
                    # In and out go at once, each with half of the node's bytes.
                    wire_s = times["node_bytes"] / 2 / (carried["GB/s"] * 1e9)
                    row["iperf3 Gbit/s"] = carried["GB/s"] * 8
                    row["predicted ms"] = (begin_s + wire_s) * 1e3
                yield row


def compare(rows: Sequence[Row]) -> list[Row]:
    """The rows with their ratios: how many times as fast as a peer, how many times the ideal."""
    ms = {(row["link"], row["net"], row["system"]): row["step ms"] for row in rows}
    compared = []
    for row in rows:
        others = {name: ms.get((row["link"], row["net"], name)) for name in (*PEERS, "alone")}
        ratios = {
            f"speed / {name}": others[name] / row["step ms"] for name in PEERS if others[name]
        }
        if others["alone"]:
            ratios["step / alone"] = row["step ms"] / others["alone"]
        if in_step := ms.get((row["link"], row["net"], MODES["step"])):
            ratios["step / ps"] = row["step ms"] / in_step
        if "predicted ms" in row:
            ratios["step / predicted"] = row["step ms"] / row["predicted ms"]
        compared.append({**row, **ratios})
    return compared


def key_ratios(compared: Sequence[Row]) -> list[Row]:
    """The ratios that this project is to be judged by, of those that were measured."""
    wanted = [
        ("1gbit", "planner", "speed / mirrored"),
        ("1gbit", "planner", "speed / ddp"),
        ("unshaped", "ps", "speed / ddp"),
        ("1gbit", "ps", "step / predicted"),
        *(("1gbit", MODES[mode], "step / ps") for mode in MODES if mode != "step"),
    ]
    return [
        {"link": link, "system": system, "net": row["net"], "what": what, "ratio": row[what]}
        for link, system, what in wanted
        for row in compared
        if (row["link"], row["system"]) == (link, system) and what in row
    ]


def read_options(*, is_shaped: bool) -> argparse.Namespace:
    """The command line; without shaped links only "unshaped" can be asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    links = list(LINKS) if is_shaped else ["unshaped"]
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mlp", "alexnet"])
    parser.add_argument(
        "--links",
        nargs="+",
        choices=links,
        default=links,
        help="all but unshaped need root and iproute2",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(USUAL))
    chosen.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        help="instead: ours by parameter servers only, in these modes, one worker alone, and both "
        "peers",
    )
    parser.add_argument("--steps", type=int, default=10, help="that count; fewer on slow links")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before these, 1 or more")
    parser.add_argument("--folder", default=report.RESULTS, help="where the JSON file goes")
    options = parser.parse_args()
    if options.modes:
        options.systems = ["alone", *(MODES[mode] for mode in options.modes), *PEERS]
    if options.steps < 1 or options.warm_up < 1:
        parser.error("--steps and --warm-up must be 1 or more")
    return options


def main() -> None:
    """Measure, print the tables, write JSON."""
    hosts = make_hosts(2)
    options = read_options(is_shaped=hosts.is_shaped)
    rows = []
    with hosts, Peers(hosts, options.systems) as peers:
        versions = peers.versions()
        for row in measure(hosts, peers, options):
            print(
                f"{row['link']} {row['net']} {row['system']}: {row['step ms']:.1f} ms", flush=True
            )
            rows.append(row)
    compared = compare(rows)
    ratios = key_ratios(compared)
    if ratios:
        print(report.table(ratios))
    report.save(
        "peers",
        compared,
        folder=options.folder,
        options={**vars(options), "folder": str(options.folder)},
        systems={name: SYSTEMS[name].what for name in options.systems},
        versions=versions,
        hosts="namespaces" if hosts.is_shaped else "loopback",
        key_ratios=ratios,
    )


if __name__ == "__main__":
    main()
