"""How long it took until everything had come that the members of a job send at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import final

_ENOUGH = 8
"""Parts of which the time from the first to the last tells how long all of them took."""


@final
class Arrivals:
    """When the first and the last of what each member sends has come. Its users keep a lock.

    Args:
      due: how much comes from each member.
    """

    def __init__(self, due: Sequence[int]) -> None:
        self._due = tuple(due)
        self._begun_s = 0.0
        self.clear()

    def clear(self) -> None:
        """Nothing has come, and nobody sends yet."""
        self._cleared_s = time.perf_counter()
        self._came_s: list[list[float]] = [[] for _ in self._due]

    def begin(self) -> None:
        """This worker sends."""
        self._begun_s = time.perf_counter()

    def note(self, member: int) -> None:
        """Something has come from it."""
        self._came_s[member].append(time.perf_counter())

    @property
    def are_complete(self) -> bool:
        return all(len(came) == due for came, due in zip(self._came_s, self._due, strict=True))

    def times_s(self) -> list[float]:
        """By member, how long all of it took.

        Who sent before this worker has begun at an unknown time, but not before `clear`. Of many
        parts the time from the first to the last tells enough.
        """
        return [self._took_s(came) for came in self._came_s]

    def _took_s(self, came_s: Sequence[float]) -> float:
        if came_s[0] >= self._begun_s:
            return came_s[-1] - self._begun_s
        if len(came_s) < _ENOUGH:
            return came_s[-1] - self._cleared_s
        spread_s = came_s[-1] - came_s[0]
        return max(spread_s * len(came_s) / (len(came_s) - 1), came_s[-1] - self._begun_s)
