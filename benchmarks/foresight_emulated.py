"""The part of `bench_foresight` whose accelerators are emulated: more workers than cores."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import foresight_model as model
from architectures import Net, scaled, scaled_batch
from architectures import net as net_named
from foresight_model import Row
from lab.cpu import cpu_s
from lab.hosts import Hosts, make_hosts
from lab.links import Carried, measured_link
from lab.members import Members
from scaling_grid import PACKET_BYTES, Cell, scaled_bits_per_s, specs, timeline
from scaling_members import order_of

from poseidon_tf.planner import DEFAULT_COALESCE_BYTES, ClusterSpec, Host, make_plan
from poseidon_tf.planner.exchanges import exchanges_of

SCALE, STRETCH = 4, 4.0  # S and D.
GBE = 10.0
HELD_BYTES = {"grpc": 4 << 20, "grpc+tcp": PACKET_BYTES}
"""Of a connection, that cannot be overtaken: in gRPC, or in a lane's socket and on its link."""
MODES = {"planner": "hybrid", "ps": "ps"}
# An accelerator is given its layers ahead of time. Without that the emulation wakes a host between
# two layers, and it waits for the interpreter of its own process, which nothing else does.
PACE = "queue"


class Alone(NamedTuple):
    """A step of so many workers that exchange nothing, and the CPU seconds of each."""

    step_s: float
    cpu_s: float


def measure(hosts_of: Mapping[str, Host], options: argparse.Namespace) -> Iterator[Row]:
    """A row for each number of workers, protocol, way of updating, network and system.

    Args:
        hosts_of: by protocol, what messages and bytes cost.
    """
    if not options.emulated_workers:
        return
    with make_hosts(max(options.emulated_workers), packet_bytes=PACKET_BYTES) as hosts:
        gbe = GBE if hosts.is_shaped else None
        cells = [
            Cell(workers, net, MODES[system], "free", gbe, PACE, STRETCH, updates)
            for workers in options.emulated_workers
            for net in options.emulated_nets
            for updates in options.updates
            for system in options.systems
        ]
        if cells:
            yield from _measured(hosts, cells, hosts_of, options)


def _measured(
    hosts: Hosts,
    cells: Sequence[Cell],
    hosts_of: Mapping[str, Host],
    options: argparse.Namespace,
) -> Iterator[Row]:
    carried = measured_link(hosts, scaled_bits_per_s(cells[0], SCALE))
    alone = {
        key: _alone(hosts, *key, options)
        for key in dict.fromkeys((cell.workers, cell.net) for cell in cells)
    }
    for protocol in options.protocols:
        for workers, updates in dict.fromkeys((cell.workers, cell.updates) for cell in cells):
            hosts.set_rate(None)
            with _members(hosts, workers, ["--updates", updates], protocol) as members:
                for cell in cells:
                    if (cell.workers, cell.updates) != (workers, updates):
                        continue
                    hosts.set_rate(None)
                    members.ask("prepare", **order_of(cell, SCALE))
                    hosts.set_rate(scaled_bits_per_s(cell, SCALE))
                    measured_s = _step_s(members, cell, options)
                    own, held_bytes = alone[workers, cell.net], HELD_BYTES[protocol]
                    expected_s = predicted_s(cell, own, carried, hosts_of[protocol], held_bytes)
                    yield model.with_error(
                        {
                            "net": f"{cell.net}, emulated",
                            "workers": workers,
                            "link": "unshaped" if cell.gbe is None else f"{cell.gbe:g}gbe",
                            "system": next(s for s in options.systems if MODES[s] == cell.mode),
                            "protocol": protocol,
                            "updates": updates,
                            "alone_s": own.step_s,
                            "measured_s": measured_s,
                            "predicted_s": expected_s,
                            "steps": options.steps,
                        }
                    )


def predicted_s(cell: Cell, alone: Alone, carried: Carried, costs: Host, held_bytes: int) -> float:
    """The emulated network, of an S^2-th of the bytes, over the emulated link, by the clock."""
    net = emulated_net(cell.net, step_s=alone.step_s)
    cluster = ClusterSpec(num_workers=cell.workers, num_servers=cell.workers, co_located=True)
    plan = make_plan(
        specs(net),
        cluster,
        schemes={} if cell.mode == "hybrid" else {"*": "ps"},
        coalesce_bytes=DEFAULT_COALESCE_BYTES // SCALE**2,
    )
    cores = len(os.sched_getaffinity(0)) / cell.workers
    return model.predicted_s(
        exchanges_of(plan, timeline(net)),
        workers=cell.workers,
        compute_s=alone.step_s,
        link=model.link_of(carried),
        host=replace(costs, cores=cores, computing=alone.cpu_s / alone.step_s),
        flops_per_s=None,  # The emulation rebuilds in no time.
        update_byte_s=0.0,
        across_step=cell.updates == "across",
        held_bytes=held_bytes * (cell.workers - 1),
    )


def emulated_net(name: str, *, step_s: float) -> Net:
    """With the sides that it has in the emulation; layers keep their shares of the step."""
    net = net_named(name)
    layers = tuple(replace(layer, kernel=scaled(layer, SCALE)) for layer in net.layers)
    return Net(name, scaled_batch(net, SCALE), step_s, layers)


def _alone(hosts: Hosts, workers: int, net: str, options: argparse.Namespace) -> Alone:
    """In lockstep by the clock: that many hosts cost something on the cores of one machine."""
    cell = Cell(workers, net, "lockstep", "free", None, PACE, STRETCH)
    with _members(hosts, workers, ["--lockstep"], None) as members:
        members.ask("prepare", **order_of(cell, SCALE))
        used_s, answers = [], []
        for steps in (options.warm_up, options.warm_up + options.steps):
            before_s = cpu_s(members.pids())
            answers = members.ask("train", steps=steps, **order_of(cell, SCALE))
            used_s.append(cpu_s(members.pids()) - before_s)
    found = Alone(
        max(statistics.median(answer["steps_s"][-options.steps :]) for answer in answers),
        max(used_s[1] - used_s[0], 0.0) / options.steps / workers,
    )
    print(
        f"{net}, {workers} workers that exchange nothing: {found.step_s:.3f} s, "
        f"{found.cpu_s * 1e3:.0f} ms of CPU each",
        flush=True,
    )
    return found


def _step_s(members: Members, cell: Cell, options: argparse.Namespace) -> float:
    """The slowest worker's median step."""
    order: dict[str, Any] = order_of(cell, SCALE)
    medians: list[float] = []
    for answer in members.ask("train", steps=options.warm_up + options.steps, **order):
        ends_s = answer["ends_s"][-options.steps - 1 :]
        medians.append(statistics.median(b - a for a, b in zip(ends_s, ends_s[1:], strict=False)))
    return max(medians)


def _members(hosts: Hosts, workers: int, args: list[str], protocol: str | None) -> Members:
    environ = {} if protocol is None else {"POSEIDON_PROTOCOL": protocol}
    script, python = "poseidon_emulated.py", sys.executable
    args = [*args, "--scale", str(SCALE)]
    return Members(hosts, script, count=workers, python=python, args=args, environ=environ)
