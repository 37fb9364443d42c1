"""A cluster whose every message is followed, to compare the model of a step with.

Each host sends one piece at a time and receives one at a time. A piece arrives when its receiver
has taken it in. Servers send a sum when all workers' pieces of it are there. Workers compute
several steps, so that what one step leaves on the links meets the next one.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from poseidon_tf.planner import Link, Plan, Scheme, Timeline
from poseidon_tf.planner.specs import DTYPE_BYTES

STEPS = 4
FACTOR_PIECES = 16


class _Port:
    """One way of a host's link: one piece at a time, the most urgent first."""

    def __init__(self, cluster: Cluster, link: Link) -> None:
        self._cluster, self._link, self._is_busy = cluster, link, False
        self._waiting: list[tuple[float, int, float, Callable[[], None]]] = []

    def put(self, urgency: float, num_bytes: float, then: Callable[[], None]) -> None:
        entry = (urgency, next(self._cluster.numbers), num_bytes, then)
        heapq.heappush(self._waiting, entry)
        self._next()

    def _next(self) -> None:
        if self._is_busy or not self._waiting:
            return
        _, _, num_bytes, then = heapq.heappop(self._waiting)
        self._is_busy = True

        def done() -> None:
            self._is_busy = False
            then()
            self._next()

        self._cluster.after(self._link.seconds(num_bytes), done)


class Cluster:
    """Workers that train by a plan.

    Args:
        links: of the hosts: the workers', then those of dedicated servers.
    """

    def __init__(
        self, plan: Plan, timeline: Timeline, links: Sequence[Link], *, across_step: bool
    ) -> None:
        self.numbers = itertools.count()
        self._plan, self._timeline, self._across = plan, timeline, across_step
        self._links = links
        self._out = [_Port(self, link) for link in links]
        self._in = [_Port(self, link) for link in links]
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._contributions: Counter[tuple[int, int, int]] = Counter()
        self._arrived: Counter[tuple[int, int, int]] = Counter()  # By step, worker and unit.
        self._waits: dict[tuple[int, int, int], Callable[[], None]] = {}
        self._began_s: dict[int, list[float]] = defaultdict(list)
        self._unit_times = self._times(0), self._times(1)
        order = self._unit_times[0 if across_step else 1]
        self._own_urgency = {unit: when for when, unit in order}

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + seconds, next(self.numbers), action))

    def step_s(self) -> float:
        """How long the last step took, on the worker for which it was longest."""
        for worker in range(self._plan.cluster.num_workers):
            self._begin(0, worker)
        while self._events:
            self._now_s, _, action = heapq.heappop(self._events)
            action()
        return max(times[-1] - times[-2] for times in self._began_s.values())

    def _begin(self, step: int, worker: int) -> None:
        if self._across:
            self._read(step, worker, sorted(self._unit_times[0]), 0.0)
        else:
            self._began_s[worker].append(self._now_s)
            self._compute(step, worker, 0.0)

    def _read(self, step: int, worker: int, units: list[tuple[float, int]], at_s: float) -> None:
        """The forward pass as far as it gets; a step counts as begun when all is read."""
        if not units:
            self._began_s[worker].append(self._now_s)
            self._compute(step, worker, at_s)
            return
        (needed_s, unit), *others = units

        def arrive() -> None:
            self._await(step - 1, worker, unit, lambda: self._read(step, worker, others, needed_s))

        self.after(needed_s - at_s, arrive)

    def _compute(self, step: int, worker: int, at_s: float) -> None:
        for exists_s, unit in self._unit_times[1]:
            self.after(exists_s - at_s, lambda unit=unit: self._push(step, worker, unit))  # type: ignore[misc]
        if step + 1 == STEPS:
            return
        end = self._timeline.compute_s - at_s
        if self._across:
            self.after(end, lambda: self._begin(step + 1, worker))
        else:
            units = [unit for _, unit in self._unit_times[0]]
            self.after(end, lambda: self._await_all(step, worker, units))

    def _await_all(self, step: int, worker: int, units: list[int]) -> None:
        if not units:
            self._begin(step + 1, worker)
            return
        self._await(step, worker, units[0], lambda: self._await_all(step, worker, units[1:]))

    def _await(self, step: int, worker: int, unit: int, then: Callable[[], None]) -> None:
        if step < 0 or self._arrived[step, worker, unit] == self._expected(unit):
            then()
        else:
            self._waits[step, worker, unit] = then

    def _times(self, which: int) -> list[tuple[float, int]]:
        """When each is first read (0), or exists (1)."""
        found = []
        for unit in self._plan.units:
            names = [self._plan.variables[at].name for at in unit.variables]
            times = [self._timeline.of(name)[which] for name in names]
            found.append((max(times) if which else min(times), unit.index))
        return found

    def _expected(self, unit: int) -> int:
        if self._plan.units[unit].scheme is Scheme.PS:
            return sum(pair.unit == unit for pair in self._plan.pairs)
        return FACTOR_PIECES * (self._plan.cluster.num_workers - 1)

    def _urgency(self, step: int, unit: int) -> float:
        return step * self._timeline.compute_s + self._own_urgency[unit]

    def _push(self, step: int, worker: int, unit: int) -> None:
        workers = self._plan.cluster.num_workers
        if self._plan.units[unit].scheme is not Scheme.PS:
            members = [self._plan.variables[at] for at in self._plan.units[unit].variables]
            each = sum(v.node_bytes for v in members) / 2 / (workers - 1) / FACTOR_PIECES
            for _ in range(FACTOR_PIECES):
                for distance in range(1, workers):
                    peer = (worker + distance) % workers
                    self._send(step, unit, worker, peer, each, self._at_worker(step, peer, unit))
            return
        pairs = [(at, pair) for at, pair in enumerate(self._plan.pairs) if pair.unit == unit]
        first = worker % self._plan.cluster.num_servers  # Not all to one server at a time.
        for at, pair in pairs[first:] + pairs[:first]:
            host = self._host(pair.server)
            width = DTYPE_BYTES[self._plan.units[unit].dtype]
            self._send(
                step,
                unit,
                worker,
                host,
                pair.length * width,
                lambda at=at, host=host, size=pair.length * width: self._at_server(  # type: ignore[misc]
                    step, unit, at, host, size
                ),
            )

    def _host(self, server: int) -> int:
        cluster = self._plan.cluster
        return server if cluster.co_located else cluster.num_workers + server

    def _at_server(self, step: int, unit: int, pair: int, host: int, num_bytes: float) -> None:
        self._contributions[step, unit, pair] += 1
        if self._contributions[step, unit, pair] == self._plan.cluster.num_workers:
            workers = self._plan.cluster.num_workers
            for distance in range(workers):
                worker = (host + distance) % workers
                then = self._at_worker(step, worker, unit)
                self._send(step, unit, host, worker, num_bytes, then)

    def _at_worker(self, step: int, worker: int, unit: int) -> Callable[[], None]:
        def arrived() -> None:
            self._arrived[step, worker, unit] += 1
            if self._arrived[step, worker, unit] == self._expected(unit):
                self._waits.pop((step, worker, unit), lambda: None)()

        return arrived

    def _send(
        self,
        step: int,
        unit: int,
        sender: int,
        receiver: int,
        num_bytes: float,
        then: Callable[[], None],
    ) -> None:
        if sender == receiver:
            then()
            return
        urgency, latency_s = self._urgency(step, unit), self._links[sender].latency_s
        self._out[sender].put(
            urgency,
            num_bytes,
            lambda: self.after(latency_s, lambda: self._in[receiver].put(urgency, num_bytes, then)),
        )


def followed_step_s(
    plan: Plan,
    timeline: Timeline,
    link: Link,
    *,
    across_step: bool,
    other_links: Mapping[int, Link] | None = None,
) -> float:
    """What a step takes.

    Args:
        other_links: by host, those that differ from `link`.
    """
    cluster = plan.cluster
    hosts = cluster.num_workers + (0 if cluster.co_located else cluster.num_servers)
    links = [(other_links or {}).get(host, link) for host in range(hosts)]
    return Cluster(plan, timeline, links, across_step=across_step).step_s()
