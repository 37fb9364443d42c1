"""The steps of a joined timeline: what each worker exchanged when, and who let the others wait.

Times are microseconds by the coordinator's clock.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

_MARKS = ("gradient ready", "sent", "received")
_Contribution: TypeAlias = tuple[str, int]  # A unit, and how often it was exchanged before.
_Marks: TypeAlias = dict[str, float]  # When what happened to it.


class Exchange(NamedTuple):
    """One unit of one worker in one step; `number` is how often it was exchanged before."""

    unit: str
    number: int
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
      number: how often its units were exchanged before.
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
    """The steps of one run, merged."""
    processes = [each or {} for each in merged["otherData"]["processes"]]
    names = {pid: str(each.get("process", pid)) for pid, each in enumerate(processes, start=1)}
    ranks = {pid: rank for pid, name in names.items() if (rank := _rank(name)) is not None}
    schemes = {
        unit: scheme
        for each in processes
        for unit, scheme in each.get("units", {}).items()
        if scheme != "all_reduce"
    }
    taken = {rank: _Taken(rank) for rank in sorted(ranks.values())}
    released_us: dict[_Contribution, float] = {}
    for row in merged["traceEvents"]:
        if row.get("cat") != "event":
            continue
        unit, number = row["args"]["variable"], row["args"]["step"]
        if row["pid"] in ranks and unit in schemes and row["name"] in _MARKS:
            taken[ranks[row["pid"]]].mark(row["name"], (unit, number), row["ts"])
        elif row["name"] == "released":
            released_us[unit.rpartition("#")[0], number] = row["ts"]
    first, *others = [each.whole() for each in taken.values()] or [{}]
    steps = []
    for key, of_first in first.items():
        if all(key in workers for workers in others):
            workers = (of_first, *(workers[key] for workers in others))
            released = {
                each.unit: released_us[each.unit, each.number]
                for each in of_first.exchanges
                if (each.unit, each.number) in released_us
            }
            steps.append(Step(key[1], workers, released))
    about = {names[pid]: each for pid, each in enumerate(processes, start=1)}
    return Timeline(tuple(steps), schemes, about)


class _Taken:
    """The steps that one worker took, as its events come; a unit's second gradient begins another.

    The number of a contribution is that of its unit, and several models have units of their own. A
    plan that is made anew has new units, whose numbers go on: the first of them begins a step too.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._steps: list[dict[_Contribution, _Marks]] = []
        self._marks: dict[_Contribution, _Marks] = {}  # Of all steps.
        self._in_step: set[str] = set()
        self._units: set[str] = set()  # That have been in any step.
        self._torn: set[int] = set()  # Numbers of contributions whose beginning was not kept.

    def mark(self, name: str, contribution: _Contribution, at_us: float) -> None:
        """Note one event; they come in the order of their times."""
        unit, number = contribution
        if name == "gradient ready":
            if not self._steps or unit in self._in_step or self._is_of_new_plan(unit, number):
                self._steps.append({})
                self._in_step.clear()
            self._in_step.add(unit)
            self._units.add(unit)
            self._steps[-1][contribution] = self._marks[contribution] = {name: at_us}
        elif contribution in self._marks:
            self._marks[contribution][name] = at_us  # The last one counts.
        else:
            self._torn.add(number)

    def _is_of_new_plan(self, unit: str, number: int) -> bool:
        return unit not in self._units and all(at < number for _, at in self._steps[-1])

    def whole(self) -> dict[_Contribution, WorkerStep]:
        """Steps that have begun and ended, by what they have on all workers: their least
        contribution."""
        found: dict[_Contribution, WorkerStep] = {}
        before: tuple[Exchange, ...] = ()
        for marks in self._steps:
            exchanges = _whole(marks)
            if exchanges and not self._torn & {number for _, number in marks}:
                begin_us = exchanges[0].ready_us
                ended = [each.received_us for each in before if each.received_us <= begin_us]
                step = WorkerStep(self._rank, exchanges, max(ended, default=begin_us))
                found[min(marks)] = step
            before = exchanges
        return found


def _rank(name: str) -> int | None:
    role, _, rank = name.partition(" ")
    return int(rank) if role == "worker" and rank.isdecimal() else None


def _whole(marks_of: Mapping[_Contribution, _Marks]) -> tuple[Exchange, ...]:
    """The exchanges of a step, all of which have ended; () if one has not."""
    if any("received" not in marks for marks in marks_of.values()):
        return ()
    exchanges = [
        Exchange(
            unit,
            number,
            marks["gradient ready"],
            marks.get("sent", marks["gradient ready"]),
            marks["received"],
        )
        for (unit, number), marks in marks_of.items()
    ]
    return tuple(sorted(exchanges, key=lambda each: each.ready_us))


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
