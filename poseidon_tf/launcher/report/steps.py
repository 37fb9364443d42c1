"""The steps of a joined timeline: what each worker exchanged when, and who let the others wait.

Times are microseconds by the coordinator's clock.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

_MARKS = ("gradient ready", "sent", "received")


class Exchange(NamedTuple):
    """One unit of one worker in one step."""

    unit: str
    ready_us: float
    sent_us: float
    received_us: float


@final
@dataclass(frozen=True, slots=True)
class WorkerStep:
    """One worker in one step.

    Attributes:
      exchanges: in the order in which their gradients were ready.
      forward_us: when it had everything of the step before.
    """

    rank: int
    exchanges: tuple[Exchange, ...]
    forward_us: float

    @property
    def backward_us(self) -> float:
        """When its first gradient was ready."""
        return self.exchanges[0].ready_us

    @property
    def ready_us(self) -> float:
        """When its last one was: from here on it waits."""
        return self.exchanges[-1].ready_us

    @property
    def end_us(self) -> float:
        """When the last sum had come."""
        return max(self.last.received_us, self.ready_us)

    @property
    def last(self) -> Exchange:
        """The exchange that it waited for to the end."""
        return max(self.exchanges, key=lambda each: each.received_us)


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One step of all workers, in rank order.

    Attributes:
      released_us: by unit, when its sum had left the last server.
    """

    number: int
    workers: tuple[WorkerStep, ...]
    released_us: Mapping[str, float] = field(default_factory=dict)

    @property
    def lasted_us(self) -> float:
        """From the first worker's begin to the last one's end."""
        begin_us = min(worker.forward_us for worker in self.workers)
        return max(worker.end_us for worker in self.workers) - begin_us

    @property
    def latest(self) -> WorkerStep:
        """The worker whose gradients were ready last: the others waited for it."""
        return max(self.workers, key=lambda worker: worker.ready_us)

    def sent_last(self, unit: str) -> tuple[int, float]:
        """The rank that sent `unit` last, and how many microseconds after the first."""
        by_rank = {w.rank: x.sent_us for w in self.workers for x in w.exchanges if x.unit == unit}
        rank = max(by_rank, key=lambda each: by_rank[each])
        return rank, by_rank[rank] - min(by_rank.values())


@final
@dataclass(frozen=True, slots=True)
class Timeline:
    """What is read of the joined trace.

    Attributes:
      steps: those that all workers have whole, in order.
      schemes: of the units.
      about: what each process has written of itself, by its name, such as "worker 0".
    """

    steps: tuple[Step, ...]
    schemes: Mapping[str, str]
    about: Mapping[str, Mapping[str, Any]]

    @property
    def typical(self) -> Step | None:
        """A step of median length; None if there are none."""
        by_length = sorted(self.steps, key=lambda step: step.lasted_us)
        return by_length[len(by_length) // 2] if by_length else None


def read(merged: Mapping[str, Any]) -> Timeline:
    """The steps of what `trace.merge` has joined."""
    processes = [each or {} for each in merged["otherData"]["processes"]]
    names = {pid: str(each.get("process", pid)) for pid, each in enumerate(processes, start=1)}
    ranks = {pid: rank for pid, name in names.items() if (rank := _rank(name)) is not None}
    schemes = {
        unit: scheme
        for each in processes
        for unit, scheme in each.get("units", {}).items()
        if scheme != "all_reduce"
    }
    found: dict[tuple[int, int], dict[str, dict[str, float]]] = defaultdict(dict)
    released: dict[int, dict[str, float]] = defaultdict(dict)
    for row in merged["traceEvents"]:
        if row.get("cat") != "event":
            continue
        unit, step = row["args"]["variable"], row["args"]["step"]
        if row["pid"] in ranks and unit in schemes and row["name"] in _MARKS:
            marks = found[step, ranks[row["pid"]]].setdefault(unit, {})
            if row["name"] == "gradient ready":  # The first counts, of the others the last.
                marks.setdefault(row["name"], row["ts"])
            else:
                marks[row["name"]] = row["ts"]
        elif row["name"] == "released":
            released[step][unit.rpartition("#")[0]] = row["ts"]
    workers = {key: _whole(units) for key, units in found.items()}
    numbers = sorted({step for step, _ in workers})
    steps = []
    for number in numbers:
        of_all = [workers.get((number, rank), ()) for rank in sorted(ranks.values())]
        if all(of_all):
            steps.append(_step(number, of_all, sorted(ranks.values()), workers, released[number]))
    about = {names[pid]: each for pid, each in enumerate(processes, start=1)}
    return Timeline(tuple(steps), schemes, about)


def _rank(name: str) -> int | None:
    role, _, rank = name.partition(" ")
    return int(rank) if role == "worker" and rank.isdecimal() else None


def _whole(units: Mapping[str, Mapping[str, float]]) -> tuple[Exchange, ...]:
    """The exchanges that have begun and ended; () if one has not."""
    if any("gradient ready" not in marks or "received" not in marks for marks in units.values()):
        return ()
    exchanges = [
        Exchange(
            unit,
            marks["gradient ready"],
            marks.get("sent", marks["gradient ready"]),
            marks["received"],
        )
        for unit, marks in units.items()
    ]
    return tuple(sorted(exchanges, key=lambda each: each.ready_us))


def _step(
    number: int,
    of_all: Iterable[tuple[Exchange, ...]],
    ranks: Iterable[int],
    workers: Mapping[tuple[int, int], tuple[Exchange, ...]],
    released_us: Mapping[str, float],
) -> Step:
    found = []
    for rank, exchanges in zip(ranks, of_all, strict=True):
        before = workers.get((number - 1, rank), ())
        begin_us = exchanges[0].ready_us
        ended = [each.received_us for each in before if each.received_us <= begin_us]
        found.append(WorkerStep(rank, exchanges, max(ended, default=begin_us)))
    return Step(number, tuple(found), released_us)


class Lateness(NamedTuple):
    """How often somebody or something was the last of a step, and by how much."""

    name: str
    times: int
    median_us: float


def late_workers(steps: Iterable[Step]) -> list[Lateness]:
    """By rank: in how many steps it was the last to have its gradients, and how much later than
    the first."""
    late: dict[int, list[float]] = defaultdict(list)
    for step in steps:
        latest = step.latest
        late[latest.rank].append(latest.ready_us - min(w.ready_us for w in step.workers))
    return [
        Lateness(f"worker rank {rank}", len(found), statistics.median(found))
        for rank, found in sorted(late.items(), key=lambda item: -len(item[1]))
    ]


def late_units(steps: Iterable[Step]) -> list[Lateness]:
    """By unit: how often some worker waited for it to the end, and for how long after its last
    gradient."""
    late: dict[str, list[float]] = defaultdict(list)
    for step in steps:
        for worker in step.workers:
            late[worker.last.unit].append(worker.end_us - worker.ready_us)
    return [
        Lateness(unit, len(found), statistics.median(found))
        for unit, found in sorted(late.items(), key=lambda item: -len(item[1]))
    ]
