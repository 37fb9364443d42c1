"""How long steps take, and which part of them is communication. No threads, no clock.

A step begins with its first gradient. So its time is that from one step's first gradient to the
next one's, whatever program trains; the first of all, with its tracing, has none before it. A step
has one gradient of each route: with the second of any the next one has begun, however often other
routes, such as those of a model before, were used.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

_MOST_STEPS = 1000
_MOST_STEPS_BY_ROUTE = 20


class StepTime(NamedTuple):
    """What one step took, in seconds."""

    lasted_s: float
    waiting_s: float
    communicating_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Medians:
    """Of the last steps, in seconds each; all 0 where there are none.

    Attributes:
      steps: how many they are.
      step_s: from the first gradient of a step to that of the next.
      own_s, waiting_s: the parts of it in which this worker did not, and did, wait for sums.
      communicating_s: the part in which some gradient was on its way.
    """

    steps: int = 0
    step_s: float = 0.0
    own_s: float = 0.0
    waiting_s: float = 0.0
    communicating_s: float = 0.0


@final
class StepTimes:
    """One worker's. Whoever feeds it holds one lock; times never go back.

    Attributes:
      steps: that have begun.
      communicating_s: seconds in which some gradient was on its way.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.communicating_s = 0.0
        self._closed_waiting_s = 0.0
        # By route that has contributed to the step: how long after the step's beginning.
        self._in_step: dict[Hashable, float] = {}
        self._by_route: collections.deque[dict[Hashable, float]]
        self._by_route = collections.deque(maxlen=_MOST_STEPS_BY_ROUTE)
        self._step_began_s = self._communicating_before_s = 0.0
        self._last_begin_s = self._last_end_s = self._busy_since_s = 0.0
        self._in_flight = 0
        self._recent: collections.deque[StepTime] = collections.deque(maxlen=_MOST_STEPS)

    @property
    def waiting_s(self) -> float:
        """Seconds in which all gradients of a step were sent and some sum was still missing."""
        return self._closed_waiting_s + (0.0 if self._in_flight else self._waited_in_step_s())

    def begin(self, route: Hashable, now_s: float) -> None:
        """A gradient is contributed by `route`."""
        if not self._in_step or route in self._in_step:
            self._close(now_s)
            self._in_step = {}
            self.steps += 1
            self._step_began_s = now_s
        self._in_step[route] = now_s - self._step_began_s
        if not self._in_flight:
            self._busy_since_s = now_s
        self._in_flight += 1
        self._last_begin_s = now_s

    def end(self, now_s: float) -> None:
        """The sum of one of them is there."""
        self._in_flight -= 1
        self._last_end_s = now_s
        if not self._in_flight:
            self.communicating_s += now_s - self._busy_since_s

    def interrupt(self) -> None:
        """What comes next is another step, of another training; the time until it is no step's."""
        self._in_step = {}
        self._by_route.clear()

    def contributed_s(self) -> dict[Hashable, float]:
        """By route: how long after the first gradient of a step it contributed; medians of the last
        20 steps since the interruption, in which it did."""
        times: dict[Hashable, list[float]] = {}
        for step in self._by_route:
            for route, after_s in step.items():
                times.setdefault(route, []).append(after_s)
        return {route: statistics.median(after_s) for route, after_s in times.items()}

    @property
    def recent(self) -> list[StepTime]:
        """The last steps, 1000 at most."""
        return list(self._recent)

    def _waited_in_step_s(self) -> float:
        return max(0.0, self._last_end_s - self._last_begin_s)

    def _close(self, now_s: float) -> None:
        communicating_s = self.communicating_s
        if self._in_flight:  # Sums of this step that come during the next.
            communicating_s += now_s - self._busy_since_s
        waiting_s = self._waited_in_step_s()
        self._closed_waiting_s += waiting_s
        if self._in_step:
            lasted_s = now_s - self._step_began_s
            its_own_s = communicating_s - self._communicating_before_s
            self._by_route.append(self._in_step)
            self._recent.append(StepTime(lasted_s, waiting_s, its_own_s))
        self._communicating_before_s = communicating_s


def medians(steps: Sequence[StepTime]) -> Medians:
    """Of these steps."""
    if not steps:
        return Medians()
    return Medians(
        steps=len(steps),
        step_s=statistics.median(step.lasted_s for step in steps),
        own_s=statistics.median(step.lasted_s - step.waiting_s for step in steps),
        waiting_s=statistics.median(step.waiting_s for step in steps),
        communicating_s=statistics.median(step.communicating_s for step in steps),
    )
