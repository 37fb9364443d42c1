"""What one step looks like from outside: bytes on a link over time, and each process's timeline.

VGG19-22K on 4 workers over links that stand for 10 GbE, unless asked otherwise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from types import TracebackType
from typing import Any, final

from architectures import net as net_named
from lab import report
from lab.hosts import Hosts, make_hosts
from lab.members import Members
from scaling_grid import Cell, scaled_bits_per_s

BIN_S = 0.01
WORKERS, GBE = 4, 10.0
TRAFFIC_MODES = ("no_overlap", "ps", "hybrid")
TIMELINE_MODES = ("ps", "hybrid")


def record_traffic(options: argparse.Namespace) -> None:
    """Write what rank 0's link carried, in bins of 10 ms, to `traffic.json`."""
    rows, series = [], {}
    base = _cell(options)
    with make_hosts(base.workers) as hosts, _members(hosts, base) as members:
        for mode in options.modes or TRAFFIC_MODES:
            cell = base._replace(mode=mode)
            order = _order(cell, options.scale)
            _prepare(hosts, members, cell, options.scale)
            with _LinkSampler(hosts) as sampler:
                answers = members.ask("train", steps=options.warm_up + options.steps, **order)
            ends_s = answers[0]["ends_s"][-options.steps - 1 :]
            out, into = sampler.bins(ends_s[0], ends_s[-1])
            series[mode] = {"ends_s": [end - ends_s[0] for end in ends_s], "out": out, "in": into}
            steps_s = [after - before for before, after in zip(ends_s, ends_s[1:], strict=False)]
            rows.append(
                {
                    "mode": mode,
                    "step_s": statistics.median(steps_s),
                    "out MB/step": sum(out) / options.steps / 1e6,
                    "in MB/step": sum(into) / options.steps / 1e6,
                }
            )
    facts = {**base._asdict(), "S": options.scale, "D": base.dilation, "bin_s": BIN_S}
    device_s = net_named(base.net).device_s
    report.save("traffic", rows, folder=options.folder, device_s=device_s, series=series, **facts)


def record_timeline(options: argparse.Namespace) -> None:
    """Have every process write its Chrome trace to `timeline/<mode>/`."""
    base = _cell(options)
    for mode in options.modes or TIMELINE_MODES:
        cell = base._replace(mode=mode)
        folder = options.folder / "timeline" / mode
        with make_hosts(cell.workers) as hosts:
            with _members(hosts, cell, "--timeline", str(folder)) as members:
                _prepare(hosts, members, cell, options.scale)
                members.ask("train", steps=options.steps, **_order(cell, options.scale))
        print(f"written to {folder}", flush=True)


def _cell(options: argparse.Namespace) -> Cell:
    net = (options.nets or ["vgg19-22k"])[0]
    workers, gbe = (options.workers or [WORKERS])[0], (options.gbe or [GBE])[0]
    return Cell(workers, net, "hybrid", options.rebuild, gbe)


def _members(hosts: Hosts, cell: Cell, *args: str) -> Members:
    script = "poseidon_emulated.py"
    return Members(hosts, script, count=cell.workers, python=sys.executable, args=args)


def _order(cell: Cell, scale: int) -> dict[str, Any]:
    wanted = {name: getattr(cell, name) for name in ("net", "mode", "dilation", "rebuild", "pace")}
    return {**wanted, "scale": scale}


def _prepare(hosts: Hosts, members: Members, cell: Cell, scale: int) -> None:
    hosts.set_rate(None)
    members.ask("prepare", **_order(cell, scale))
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
