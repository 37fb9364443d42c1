"""Which cells `bench_scaling` measures, at which scale, and what the best figure of each could be.

A cell is one network, on so many workers, over such links, in one mode:
    hybrid      the planner chooses between parameter servers and sufficient factors
    ps          parameter servers only
    no_overlap  parameter servers only, and nothing is sent before backpropagation has ended
    mirrored    TensorFlow's MultiWorkerMirroredStrategy: a ring all-reduce, which moves as many
                bytes as parameter servers do and so has their bound
    lockstep    workers that exchange nothing, and begin every step together by the clock: what so
                many hosts cost on the cores of one machine, and so the best that any mode could do

Variables are updated
    step        at the end of the step, which waits for all sums
    across      at the beginning of the next step, each before it is read; the links carry first
                what is read first
    unordered   the same, but the links carry first what exists first
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from architectures import NETS, Net, scaled_batch
from architectures import net as net_named

from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    Plan,
    Scheme,
    Timeline,
    VariableSpec,
    gradient_times,
    make_plan,
    read_times,
    speedup_bound,
)
from poseidon_tf.planner.exchanges import bytes_of_variables
from poseidon_tf.planner.simulate import arrivals, end_of_next_reads

MODES = ("hybrid", "ps", "no_overlap", "mirrored", "lockstep")
EXCHANGING = MODES[:-1]
OURS = ("hybrid", "ps")  # Only they can update across the step, or send 16 bits.
UPDATES = ("step", "across", "unordered")
WIRES = ("float32", "bfloat16")
WORKERS = (2, 4, 8, 16)
GBE = (2.0, 5.0, 10.0, 20.0, 30.0, 40.0)
STRETCH_OF_TARGETS = 4.0
PACKET_BYTES = 16 * 1024
"""Of the links that stand for faster ones, see `emulation`; smaller ones cost too much CPU."""
# Of P3's paper: what it sweeps, on so many workers, and D. The deep network has more exchanges in
# its short step than two cores can make in time.
SWEEP_WORKERS = 4
SWEEPS = {
    "vgg19": ((2.0, 4.0, 6.0, 8.0, 12.0), 1.0),
    "resnet-50": ((1.0, 2.0, 4.0, 6.0, 8.0), 4.0),
}


_OF_JOB = ("workers", "is_mirrored", "is_in_lockstep", "updates", "wire")
_OF_MODEL = ("net", "mode", "rebuild", "dilation")


class Cell(NamedTuple):
    """What is measured as one.

    Attributes:
      gbe: what the links stand for, in Gbit/s; None for links that are not shaped.
      rebuild: "free", or "charged": multiplying all workers' factors takes the accelerator's time.
      pace: "sleep": the host wakes between two layers, on cores that all workers share; "queue":
        the accelerator goes from layer to layer on its own.
      stretch: D, how many times slower everything but this machine's CPU is; None for 1, or 4
        where more than 8 workers would be short of it.
      updates: one of `UPDATES`.
      wire: one of `WIRES`, what gradients are sent as.
    """

    workers: int
    net: str
    mode: str
    rebuild: str
    gbe: float | None
    pace: str = "sleep"
    stretch: float | None = None
    updates: str = "step"
    wire: str = "float32"

    @property
    def is_mirrored(self) -> bool:
        return self.mode == "mirrored"

    @property
    def is_in_lockstep(self) -> bool:
        return self.mode == "lockstep"

    @property
    def dilation(self) -> float:
        """D."""
        return self.stretch or (4.0 if self.workers > 8 else 1.0)


def product(
    nets: Sequence[str],
    workers: Sequence[int],
    gbe: Sequence[float],
    modes: Sequence[str],
    rebuild: str,
) -> list[Cell]:
    """All combinations; only "hybrid" rebuilds anything, so only it is measured charged."""
    cells = itertools.product(workers, nets, modes, gbe)
    found = [
        Cell(count, net, mode, rebuild, rate)
        for count, net, mode, rate in cells
        if rebuild == "free" or mode == "hybrid"
    ]
    # Where nothing is sent there is one cell for all links.
    return list(dict.fromkeys(c._replace(gbe=None) if c.is_in_lockstep else c for c in found))


def everything() -> list[Cell]:
    """The whole grid, of many hours."""
    charged = product(list(NETS), WORKERS, GBE, ["hybrid"], "charged")
    return product(list(NETS), WORKERS, GBE, MODES, "free") + charged


def selection() -> list[Cell]:
    """What fits in about an hour on two cores; slow ones take half as long again.

    - VGG19-22K in all modes at 2 to 8 workers, ours also at 16; at 10 and 40 Gbit/s.
    - In lockstep wherever a figure is to be told from what the cores of this machine allow.
    - VGG19-22K on 8 workers at all bandwidths.
    - VGG19-22K at 10 Gbit/s with the rebuild charged, and with a queue of layers.
    - The others on 4 and 8 workers at 10 Gbit/s, AlexNet at 40 as well; the two deepest, whose
      steps take minutes to trace, on 8 only. The host's work between their many layers is more
      than two cores can do for 8 workers in time, so they are measured stretched as well.
    """
    vgg, ours = ["vgg19-22k"], ["hybrid", "ps"]
    deep = ["inception-v3", "resnet-152"]
    return [
        *product(vgg, [2, 4, 8], [10.0, 40.0], EXCHANGING, "free"),
        *product(vgg, [4, 8, 16], [10.0], ["lockstep"], "free"),
        *product(vgg, [16], [10.0, 40.0], ours, "free"),
        *product(vgg, [8], [2.0, 5.0, 20.0, 30.0], ours, "free"),
        *product(vgg, [4, 8, 16], [10.0], ["hybrid"], "charged"),
        *(c._replace(pace="queue") for c in product(vgg, [4, 8, 16], [10.0], ours, "free")),
        *product(["vgg19"], [4, 8], [10.0], ours, "free"),
        *product(["alexnet"], [4, 8], [10.0, 40.0], ours, "free"),
        *product(["googlenet"], [4, 8], [10.0], ours, "free"),
        *(
            cell._replace(stretch=stretch)
            for cell in product(deep, [8], [10.0], ["hybrid", "mirrored", "lockstep"], "free")
            for stretch in (None, 4.0)
        ),
    ]


def with_updates(cells: Sequence[Cell], updates: Sequence[str], wires: Sequence[str]) -> list[Cell]:
    """The cells with each of these updates and wires, where their mode has them."""
    return [
        cell._replace(updates=each, wire=wire)
        for each, wire in itertools.product(updates, wires)
        for cell in cells
        if cell.mode in OURS or (each, wire) == (UPDATES[0], WIRES[0])
    ]


def targets() -> list[Cell]:
    """What the targets of updates across the step and of 16 bits are about; some 50 minutes.

    Each as an accelerator has its layers ahead of time, and without; and with updates in the step
    beside it, but for the deep network, which takes minutes to trace. All are stretched: the less
    a host's processor is waited for, the nearer is an accelerator of its own.
    """
    vgg = product(["vgg19-22k"], [4, 8, 16], [10.0], ["ps"], "free")
    vgg += product(["vgg19-22k"], [8], [2.0], ["hybrid"], "free")
    vgg += product(["vgg19"], [8], [10.0], ["ps"], "free")
    nothing_to_gain = product(["vgg19-22k"], [8], [10.0], ["hybrid"], "free")
    (deep,) = product(["resnet-152"], [8], [2.0], ["hybrid"], "free")
    halved = product(["vgg19-22k"], [8], [10.0], ["ps"], "free")
    cells = [
        *with_pace("queue", with_updates(vgg, ["step"], ["float32"])),
        *both_paces(with_updates(nothing_to_gain, ["step"], ["float32"])),
        *both_paces(with_updates([*vgg, *nothing_to_gain, deep], ["across"], ["float32"])),
        *both_paces(with_updates(halved, ["across"], ["bfloat16"])),
    ]
    return [cell._replace(stretch=STRETCH_OF_TARGETS) for cell in cells]


def sweep() -> list[Cell]:
    """The bandwidths of P3's paper: in the step, and across it without and with priorities."""
    cells = [
        cell._replace(stretch=stretch)
        for net, (rates, stretch) in SWEEPS.items()
        for cell in product([net], [SWEEP_WORKERS], rates, ["ps"], "free")
    ]
    return with_pace("queue", with_updates(cells, UPDATES, ["float32"]))


def with_pace(pace: str, cells: Sequence[Cell]) -> list[Cell]:
    """The cells at that pace."""
    return [cell._replace(pace=pace) for cell in cells]


def both_paces(cells: Sequence[Cell]) -> list[Cell]:
    """The cells at either pace."""
    return with_pace("queue", cells) + with_pace("sleep", cells)


def bound(cell: Cell, *, across_step: bool = False) -> float | None:
    """The largest speedup that the links, the mode and the accelerator allow.

    Args:
      across_step: as if updates were made across the step; None for modes that have none.
    """
    if across_step:
        cell = cell._replace(updates="across")
    if cell.gbe is None or (cell.updates != "step" and cell.mode not in OURS):
        return None
    net = net_named(cell.net)
    plan = _plan(cell.net, cell.workers, cell.mode, cell.wire)
    rebuild_s = _rebuild_s(net, plan) if cell.rebuild == "charged" else 0.0
    exists_s = _gradient_times(net, overlaps=cell.mode != "no_overlap")
    if cell.updates == "unordered":
        by_link = _speedup_unordered(plan, exists_s, net, bits_per_s=cell.gbe * 1e9)
    else:
        by_link = speedup_bound(
            plan,
            exists_s,
            compute_s=net.device_s,
            bits_per_s=cell.gbe * 1e9,
            needed_s=_read_times(net) if cell.updates == "across" else None,
        )
    return min(by_link, cell.workers * net.device_s / (net.device_s + rebuild_s))


def _speedup_unordered(
    plan: Plan, exists_s: dict[str, float], net: Net, *, bits_per_s: float
) -> float:
    """The bound across the step if links carry first what exists first."""
    exchanges = bytes_of_variables(plan, Timeline(net.device_s, exists_s, _read_times(net)))
    arrived_s = arrivals(exchanges, Machines(link=Link(bits_per_s=bits_per_s)))
    free = [0.0] * len(exchanges)
    step_s = end_of_next_reads(exchanges, arrived_s, free, compute_s=net.device_s)
    return plan.cluster.num_workers * net.device_s / step_s


def expected_step_s(cell: Cell) -> float:
    """What a step takes at best, by this machine's clock."""
    ideal_s = net_named(cell.net).device_s * cell.dilation
    best = bound(cell)
    return ideal_s if best is None else ideal_s * cell.workers / best


def expected_s(cells: Sequence[Cell], *, steps: int) -> float:
    """What measuring `cells` takes, roughly, on two cores.

    Args:
      steps: of a cell, warm-up included.
    """
    seconds = 0.0
    for job in jobs(cells):
        seconds += 5.0 + 3.0 * job[0].workers
        for cells_of_model in models(job):
            first = cells_of_model[0]
            num_traces = 1 if first.updates == "step" else 2
            seconds += 0.1 * num_traces * len(net_named(first.net).layers) * first.workers
            # A fit begins and ends; and a step is some per cent above the best.
            seconds += sum(3.0 + 1.15 * steps * expected_step_s(cell) for cell in cells_of_model)
    return seconds


def jobs(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells in groups that one set of processes can measure."""
    key = functools.partial(_picked, names=_OF_JOB)
    for _, group in itertools.groupby(sorted(set(cells), key=lambda c: (key(c), str(c))), key):
        yield list(group)


def models(job: Sequence[Cell]) -> Iterator[list[Cell]]:
    """The cells of a job in groups that one model can measure, at several bandwidths and paces."""
    key = functools.partial(_picked, names=_OF_MODEL)
    for _, group in itertools.groupby(sorted(job, key=key), key):
        yield sorted(group, key=lambda cell: (cell.pace, cell.gbe or 0.0), reverse=True)


def scaled_bits_per_s(cell: Cell, scale: int) -> float | None:
    """What the link is shaped to: bytes are 1/S^2 of the network's, and take D times as long."""
    return None if cell.gbe is None else cell.gbe * 1e9 / scale**2 / cell.dilation


def specs(net: Net) -> list[VariableSpec]:
    """The variables of the real network, as the planner sees them."""
    found = []
    for layer in net.layers:
        kernel, is_dense = f"{layer.name}/kernel", layer.kind == "dense"
        factors = (layer.kernel[0], layer.kernel[1]) if is_dense else None
        found.append(
            VariableSpec(
                name=kernel,
                shape=layer.kernel,
                dtype="float32",
                factors=factors,
                rows=scaled_batch(net, 1) if is_dense else None,
                why_not="" if is_dense else "a convolution",
            )
        )
        found += [
            VariableSpec(
                name=f"{layer.name}/{vector}",
                shape=layer.kernel[-1:],
                dtype="float32",
                bias_of=kernel if is_dense else None,
            )
            for vector in layer.vectors
        ]
    return found


def timeline(net: Net, *, overlaps: bool = True) -> Timeline:
    """Of one worker's step, which takes the network's time on its device.

    Args:
      overlaps: False where nothing is sent before all gradients exist.
    """
    return Timeline(net.device_s, _gradient_times(net, overlaps=overlaps), _read_times(net))


@functools.cache
def _plan(net_name: str, workers: int, mode: str, wire: str) -> Plan:
    cluster = ClusterSpec(num_workers=workers, num_servers=workers, co_located=True)
    schemes = {} if mode == "hybrid" else {"*": "ps"}
    return make_plan(specs(net_named(net_name)), cluster, schemes=schemes, wire_dtype=wire)


def _gradient_times(net: Net, *, overlaps: bool) -> dict[str, float]:
    times = gradient_times(_shares(net), compute_s=net.device_s)
    return _by_variable(net, times if overlaps else [net.device_s] * len(times))


def _read_times(net: Net) -> dict[str, float]:
    return _by_variable(net, read_times(_shares(net), compute_s=net.device_s))


def _shares(net: Net) -> list[float]:
    return [net.time_share(layer) for layer in net.layers]


def _by_variable(net: Net, times: Sequence[float]) -> dict[str, float]:
    by_layer = dict(zip((layer.name for layer in net.layers), times, strict=True))
    return {spec.name: by_layer[spec.name.rpartition("/")[0]] for spec in specs(net)}


def _rebuild_s(net: Net, plan: Plan) -> float:
    """What the products over all workers' rows take longer than those over one's own."""
    sfb = {variable.name for variable in plan.variables if variable.scheme is Scheme.SFB}
    own_s = sum(
        net.weight_gradient_s(layer) for layer in net.layers if f"{layer.name}/kernel" in sfb
    )
    return own_s * (plan.cluster.num_workers - 1)


def _picked(cell: Cell, names: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(getattr(cell, name) for name in names)
