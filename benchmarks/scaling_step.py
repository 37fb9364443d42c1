"""What one step looks like from outside: bytes on a link over time, and each process's timeline.

VGG19-22K on 4 workers over links that stand for 10 GbE, unless asked otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple, final

import scaling_grid
from architectures import net as net_named
from lab import report
from lab.hosts import Hosts, make_hosts
from lab.members import Members
from scaling_grid import PACKET_BYTES, Cell, scaled_bits_per_s
from scaling_members import members_of, order_of

BIN_S = 0.01
WORKERS, GBE = 4, 10.0
TIMELINE_MODES = ("ps", "hybrid")


class Panel(NamedTuple):
    """A part of the picture: what the link carries in one way to train."""

    mode: str
    updates: str = "step"
    wire: str = "float32"

    @property
    def name(self) -> str:
        """In the results; what is as it was has the mode's name alone."""
        parts = [self.mode]
        parts += [self.updates] if self.updates != "step" else []
        parts += [self.wire] if self.wire != "float32" else []
        return " ".join(parts)


PANELS = (
    Panel("no_overlap"),
    Panel("ps"),
    Panel("hybrid"),
    Panel("ps", "across"),
    Panel("ps", "across", "bfloat16"),
)


def record_traffic(options: argparse.Namespace) -> None:
    """Write what rank 0's link carried, in bins of 10 ms, to `traffic.json`."""
    rows, series = [], {}
    base = _cell(options)
    panels = [panel for panel in PANELS if panel.mode in (options.modes or scaling_grid.MODES)]
    with make_hosts(base.workers, queue_ms=options.queue_ms, packet_bytes=PACKET_BYTES) as hosts:
        # One job for all that have the same of these two.
        for _, group in itertools.groupby(panels, lambda panel: panel[1:]):
            cells = [base._replace(**panel._asdict()) for panel in group]
            with members_of(hosts, cells[0]) as members:
                for cell in cells:
                    name = Panel(cell.mode, cell.updates, cell.wire).name
                    series[name], row = _traffic(hosts, members, cell, options)
                    rows.append({"mode": name, **row})
    facts = {**base._asdict(), "S": options.scale, "D": base.dilation, "bin_s": BIN_S}
    device_s = net_named(base.net).device_s
    report.save("traffic", rows, folder=options.folder, device_s=device_s, series=series, **facts)


def _traffic(
    hosts: Hosts, members: Members, cell: Cell, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, float]]:
    """What was carried, and a row of the table."""
    _prepare(hosts, members, cell, options.scale)
    order = order_of(cell, options.scale)
    with _LinkSampler(hosts) as sampler:
        answers = members.ask("train", steps=options.warm_up + options.steps, **order)
    ends_s = answers[0]["ends_s"][-options.steps - 1 :]
    out, into = sampler.bins(ends_s[0], ends_s[-1])
    steps_s = [after - before for before, after in zip(ends_s, ends_s[1:], strict=False)]
    series = {"ends_s": [end - ends_s[0] for end in ends_s], "out": out, "in": into}
    return series, {
        "step_s": statistics.median(steps_s),
        "out MB/step": sum(out) / options.steps / 1e6,
        "in MB/step": sum(into) / options.steps / 1e6,
    }


def record_timeline(options: argparse.Namespace) -> None:
    """Have every process write its Chrome trace to `timeline/<mode>/`."""
    base = _cell(options)
    for mode in options.modes or TIMELINE_MODES:
        cell = base._replace(mode=mode)
        folder = options.folder / "timeline" / mode
        with make_hosts(
            cell.workers, queue_ms=options.queue_ms, packet_bytes=PACKET_BYTES
        ) as hosts:
            with members_of(hosts, cell, "--timeline", str(folder)) as members:
                _prepare(hosts, members, cell, options.scale)
                members.ask("train", steps=options.steps, **order_of(cell, options.scale))
        print(f"written to {folder}", flush=True)


def _cell(options: argparse.Namespace) -> Cell:
    net = (options.nets or ["vgg19-22k"])[0]
    workers, gbe = (options.workers or [WORKERS])[0], (options.gbe or [GBE])[0]
    pace = options.pace or "sleep"
    return Cell(workers, net, "hybrid", options.rebuild, gbe, pace)


def _prepare(hosts: Hosts, members: Members, cell: Cell, scale: int) -> None:
    hosts.set_rate(None)
    members.ask("prepare", **order_of(cell, scale))
    if hosts.is_shaped:
        hosts.set_rate(scaled_bits_per_s(cell, scale))


@final
class _LinkSampler:
    """Reads the counters of the first host's link every `BIN_S` on a thread of its own."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._stopped = threading.Event()
        self._samples: list[tuple[float, int, int]] = []
        self._thread = threading.Thread(target=self._sample, name="link sampler")

    def __enter__(self) -> _LinkSampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def bins(self, begin_s: float, end_s: float) -> tuple[list[int], list[int]]:
        """Bytes out and in per bin, from `begin_s` to `end_s` by the workers' clock."""
        count = int((end_s - begin_s) / BIN_S) + 1
        out, into = [0] * count, [0] * count
        for before, after in zip(self._samples, self._samples[1:], strict=False):
            at = int((after[0] - begin_s) // BIN_S)
            if 0 <= at < count:
                out[at] += after[1] - before[1]
                into[at] += after[2] - before[2]
        return out, into

    def _sample(self) -> None:
        next_s = time.perf_counter()
        while not self._stopped.wait(max(0.0, next_s - time.perf_counter())):
            self._samples.append((time.perf_counter(), *self._hosts.link_bytes(0)))
            next_s += BIN_S
