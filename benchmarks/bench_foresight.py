"""Is the model of a step right? Predictions beside measurements, on what runs on this machine.

    make bench-foresight

All that the model is given is measured in the same run: links by a plain connection between two
hosts; a step without exchanges and when its gradients exist, with all workers computing at once;
CPU seconds for a message and for a byte, on nets that are not predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import foresight_emulated
import foresight_model as model
from architectures import NETS as NETS_OF_PAPER
from foresight_model import Row
from lab import report
from lab.cpu import cpu_s
from lab.hosts import Hosts, make_hosts
from lab.links import measured_link
from lab.members import Members
from lab.peers import ROWS
from nets import NETS

from poseidon_tf.planner import Host, Link, Plan

BENCHMARKS = Path(__file__).resolve().parent
WORKERS = 2
LINKS = {"unshaped": None, "10gbit": 10e9, "1gbit": 1e9, "100mbit": 100e6}
SLOW_BITS_PER_S = 200e6
SYSTEMS: dict[str, dict[str, Any]] = {"planner": {}, "ps": {"schemes": {"*": "ps"}}}
UPDATES = {"step": False, "across": True}
PROTOCOLS = ("grpc", "grpc+tcp")
CALIBRATION = {"many": 10, "wide": 1}  # And how many times as many steps: the first's are short.
CELL = ("protocol", "updates", "system", "link", "net", "workers")


class Inputs(NamedTuple):
    """What the model is given of one protocol.

    Attributes:
        host: without what a net computes.
        timelines: by net.
    """

    host: Host
    flops_per_s: float
    timelines: dict[str, Any]


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each cell, as soon as it is known."""
    hosts_of = {}
    with make_hosts(WORKERS) as hosts:
        for protocol in options.protocols:
            # Each variable on its own: the price of a message is to be told from that of a byte.
            apart = {"protocol": protocol, "defer_updates": False, "coalesce_bytes": 0}
            with _members(hosts, {**apart, **SYSTEMS["ps"]}) as members:
                inputs = _inputs(members, options)
            hosts_of[protocol] = inputs.host
            yield from _measure_real(hosts, protocol, inputs, options)
    yield from foresight_emulated.measure(hosts_of, options)


def _measure_real(
    hosts: Hosts, protocol: str, inputs: Inputs, options: argparse.Namespace
) -> Iterator[Row]:
    """Two workers that compute what they say: each way of updating, system, link and net."""
    if not options.nets:
        return
    links = {link: model.link_of(measured_link(hosts, LINKS[link])) for link in options.links}
    for updates in options.updates:
        for system in options.systems:
            job = {"protocol": protocol, "defer_updates": UPDATES[updates], **SYSTEMS[system]}
            with _members(hosts, job) as members:
                hosts.set_rate(None)
                for net in options.nets:
                    # Traced, with an update before it and without, and first values sent.
                    members.ask("train", net=net, rows=ROWS, warm_up=1, steps=2)
                for link, found in links.items():
                    hosts.set_rate(LINKS[link])
                    for net in options.nets:
                        what = {
                            "net": net,
                            "workers": WORKERS,
                            "link": link,
                            "system": system,
                            "protocol": protocol,
                            "updates": updates,
                        }
                        cell = _cell(members, net, link, found, inputs, updates, options)
                        yield model.with_error({**what, **cell})


def _cell(
    members: Members,
    net: str,
    link: str,
    measured: Link,
    inputs: Inputs,
    updates: str,
    options: argparse.Namespace,
) -> Row:
    """Measured, then predicted from the plan that the job has made."""
    bits_per_s = LINKS[link]
    is_slow = bits_per_s is not None and bits_per_s < SLOW_BITS_PER_S
    steps = min(options.steps, 3) if is_slow else options.steps
    answers = members.ask("train", net=net, rows=ROWS, warm_up=options.warm_up, steps=steps)
    timeline = inputs.timelines[net]
    exchanges = model.exchanges_of_net(Plan.from_json(answers[0]["plan"]), timeline)
    num_bytes = sum(exchange.updated_bytes for exchange in exchanges)
    predicted_s = model.predicted_s(
        exchanges,
        workers=WORKERS,
        compute_s=timeline.compute_s,
        link=measured,
        host=inputs.host,
        flops_per_s=inputs.flops_per_s,
        update_byte_s=model.update_byte_s(timeline, num_bytes),
        across_step=UPDATES[updates],
    )
    return {
        "alone_s": timeline.compute_s,
        "measured_s": _slowest_s(answers),
        "predicted_s": predicted_s,
        "steps": steps,
    }


def _inputs(members: Members, options: argparse.Namespace) -> Inputs:
    """Figures of the machine, of this protocol and of the nets, of all workers at once."""
    speeds = members.ask("speeds", rows=ROWS * (WORKERS - 1), steps=options.steps)
    sum_byte_s = statistics.mean(each["sum_byte_s"] for each in speeds)
    flops_per_s = min(each["flops_per_s"] for each in speeds)
    asked = [_asked(members, net, options) for net in CALIBRATION]
    costs = model.cpu_costs(*asked, sum_byte_s=sum_byte_s)
    host = Host(
        cores=len(os.sched_getaffinity(0)) / WORKERS,
        computing=1.0,  # `lab.members.PINNED` gives a worker one thread to compute with.
        message_s=costs.message_s,
        byte_s=costs.byte_s,
        sum_byte_s=sum_byte_s,
    )
    timelines = {}
    for net in options.nets:
        times = members.ask("gradients", net=net, rows=ROWS, steps=options.steps)
        exists_s = {name: max(each[name] for each in times) for name in times[0]}
        alone = members.ask(
            "alone", net=net, rows=ROWS, warm_up=options.warm_up, steps=options.steps
        )
        timelines[net] = model.timeline_of(exists_s, alone_s=_slowest_s(alone))
    print(
        f"message {costs.message_s * 1e3:.3f} ms, byte {costs.byte_s * 1e9:.3f} ns, summed byte "
        f"{sum_byte_s * 1e9:.3f} ns, product {flops_per_s / 1e9:.1f} GFLOP/s",
        flush=True,
    )
    return Inputs(host, flops_per_s, timelines)


def _asked(members: Members, net: str, options: argparse.Namespace) -> model.Asked:
    """What exchanges of `net` ask of a host, and what that takes of its processor."""
    answers: list[Any] = []
    spent_s, count = {}, options.cpu_steps * CALIBRATION[net]
    for do in ("alone", "train"):
        order: dict[str, Any] = {"net": net, "rows": ROWS, "warm_up": 1}
        members.ask(do, steps=1, **order)
        used_s = []
        # A short and a long one: what beginning and ending take is in both.
        for steps in (count, 3 * count):
            before_s = cpu_s(members.pids())
            answers = members.ask(do, steps=steps, **order)
            used_s.append(cpu_s(members.pids()) - before_s)
        spent_s[do] = (used_s[1] - used_s[0]) / (2 * count) / WORKERS
    names = answers[0]["names"]
    timeline = model.timeline_of(dict.fromkeys(names, 1.0), alone_s=1.0)
    exchanges = model.exchanges_of_net(Plan.from_json(answers[0]["plan"]), timeline)
    return model.asked(exchanges, max(spent_s["train"] - spent_s["alone"], 0.0))


def _members(hosts: Hosts, job: dict[str, Any]) -> Members:
    args = [json.dumps(job)]
    environ = {"PYTHONPATH": str(BENCHMARKS)}  # For `nets`.
    script, python = "foresight_fit.py", sys.executable
    return Members(hosts, script, count=WORKERS, python=python, args=args, environ=environ)


def _slowest_s(answers: Sequence[Any]) -> float:
    medians: list[float] = [statistics.median(answer["seconds"]) for answer in answers]
    return max(medians)


def read_options(*, is_shaped: bool) -> argparse.Namespace:
    """The command line; without shaped links only "unshaped" can be asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    links = list(LINKS) if is_shaped else ["unshaped"]
    usual = [link for link in ("10gbit", "1gbit") if link in links] or links
    parser.add_argument("--nets", nargs="*", choices=list(NETS), default=["mlp", "alexnet"])
    parser.add_argument("--links", nargs="+", choices=links, default=usual)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--updates", nargs="+", choices=list(UPDATES), default=list(UPDATES))
    parser.add_argument(
        "--emulated-nets", nargs="*", choices=list(NETS_OF_PAPER), default=["vgg19-22k"]
    )
    parser.add_argument("--emulated-workers", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--steps", type=int, default=5, help="that count; fewer on slow links")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before these, 1 or more")
    parser.add_argument("--cpu-steps", type=int, default=10, help="for CPU seconds, four times")
    parser.add_argument("--small", action="store_true", help="one cell, in seconds")
    parser.add_argument("--folder", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    if options.small:
        options.nets, options.links, options.protocols = ["tiny"], ["unshaped"], ["grpc+tcp"]
        options.systems, options.updates = ["ps"], ["step"]
        options.emulated_nets = options.emulated_workers = []
        options.steps, options.warm_up, options.cpu_steps = 2, 1, 2
    return options


def main() -> None:
    """Measure, print both tables, write JSON."""
    options = read_options(is_shaped=make_hosts(WORKERS).is_shaped)
    rows: list[Row] = []
    for row in measure(options):
        rows.append(row)
        what = (row[name] for name in ("protocol", "updates", "system", "link", "net", "workers"))
        times = f"{row['measured_s'] * 1e3:.1f} ms, predicted {row['predicted_s'] * 1e3:.1f} ms"
        print(f"{', '.join(map(str, what))}: {times}, {row['error']:+.1%}", flush=True)
    found = model.summary(rows)
    print(report.table([found]))
    report.save("foresight", rows, folder=options.folder, summary=found)


if __name__ == "__main__":
    main()
