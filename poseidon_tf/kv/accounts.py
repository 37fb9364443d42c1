"""What a server has summed, how long that took, and whom its sums waited for. No threads, no clock.

A sum waits for a worker from when all others' contributions are there until that worker's is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple, final


@dataclass(frozen=True, slots=True, kw_only=True)
class SumFigures:
    """How a server is doing. Totals are since it began; the rest is since the look before.

    Attributes:
      sums: that have left.
      received_bytes, sent_bytes: of contributions and sums, over the network.
      summing_s: seconds in which it took contributions and added them.
      sums_per_s, summing: sums in a second, and the part of the time in which it added.
      last_rank: whose contribution the sums waited for longest, all in all; -1 for nobody's.
      last_part: the part of the sums, from 0 to 1, that had this rank's contribution last.
      late_s: how long after the one before it came in those, in the mean.
      oldest_wait_s: for how long the oldest unfinished sum has waited now; 0 for none.
    """

    sums: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    summing_s: float = 0.0
    sums_per_s: float = 0.0
    summing: float = 0.0
    last_rank: int = -1
    last_part: float = 0.0
    late_s: float = 0.0
    oldest_wait_s: float = 0.0


class _Open(NamedTuple):
    """When the first and the latest contribution of a sum came."""

    first_s: float
    latest_s: float


class _Late(NamedTuple):
    """How many sums had a rank's contribution last, and how much later, added up."""

    sums: int = 0
    late_s: float = 0.0


@final
class SumAccount:
    """Of one server. Whoever feeds it holds one lock; times never go back.

    Attributes:
      received_bytes, sent_bytes: see `SumFigures`; counted by whoever feeds it.
    """

    def __init__(self, now_s: float) -> None:
        self.received_bytes = self.sent_bytes = 0
        self._sums, self._summing_s = 0, 0.0
        self._open: dict[tuple[int, int], _Open] = {}  # By key and step, the oldest first.
        self._late: defaultdict[int, _Late] = defaultdict(_Late)  # By rank, since the last look.
        self._looked = SumFigures()
        self._looked_s = now_s

    @property
    def oldest(self) -> tuple[int, int] | None:
        """Key and step of the unfinished sum that began first; None if there is none."""
        return next(iter(self._open), None)

    def took(
        self, rank: int, key: int, step: int, *, began_s: float, ended_s: float, is_last: bool
    ) -> None:
        """A contribution of `rank` was taken; with the last one the sum has left."""
        self._summing_s += ended_s - began_s
        if is_last:
            self._sums += 1
            latest_s = self._open.pop((key, step), _Open(began_s, began_s)).latest_s
            sums, late_s = self._late[rank]
            self._late[rank] = _Late(sums + 1, late_s + max(0.0, began_s - latest_s))
        else:
            first_s = self._open.get((key, step), _Open(began_s, began_s)).first_s
            self._open[key, step] = _Open(first_s, began_s)

    def look(self, now_s: float) -> SumFigures:
        """How the server is doing; what is since the look before begins anew."""
        before, lasted_s = self._looked, max(now_s - self._looked_s, 1e-9)
        sums = self._sums - before.sums
        rank, late = max(self._late.items(), key=lambda item: item[1].late_s, default=(-1, _Late()))
        self._looked = SumFigures(
            sums=self._sums,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
            summing_s=self._summing_s,
            sums_per_s=sums / lasted_s,
            summing=(self._summing_s - before.summing_s) / lasted_s,
            last_rank=rank,
            last_part=late.sums / sums if sums else 0.0,
            late_s=late.late_s / late.sums if late.sums else 0.0,
            oldest_wait_s=now_s - next(iter(self._open.values())).first_s if self._open else 0.0,
        )
        self._looked_s = now_s
        self._late.clear()
        return self._looked
