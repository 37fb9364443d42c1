"""What a worker waits for: when that is worth a report, when it is over, and how it is said.

No threads, no clock: times come in as arguments. Only who reads a report is told the time of day.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Literal, final

_MOST_NAMES = 2


@final
class StallReports:
    """Looks at the oldest wait of a worker; every wait has its own reports.

    Args:
      first_s, repeat_s: seconds until the first report of a wait, and from each to the next.
      end_s: seconds that a wait may last.
    """

    def __init__(self, *, first_s: float, repeat_s: float, end_s: float) -> None:
        self._first_s, self._repeat_s, self._end_s = first_s, repeat_s, end_s
        self._since_s: float | None = None
        self._next_report_s = 0.0

    def look(self, since_s: float | None, now_s: float) -> Literal["wait", "report", "end"]:
        """What is due at `now_s` for the wait that began at `since_s`; None: there is no wait."""
        if since_s is None:
            self._since_s = None
            return "wait"
        if since_s != self._since_s:
            self._since_s = since_s
            self._next_report_s = since_s + self._first_s
        if now_s >= since_s + self._end_s:
            return "end"
        if now_s < self._next_report_s:
            return "wait"
        self._next_report_s = now_s + self._repeat_s
        return "report"


@final
class OtherWait:
    """A wait that is not for the sum of a route; it has an end of its own.

    Args:
      what: is waited for, in words.
      owing: says who lets it wait; None where somebody else reports it.
      since_s: when it began.
      first_s, repeat_s: seconds until the first report, and from each to the next.
    """

    def __init__(
        self,
        what: str,
        owing: Callable[[], str] | None,
        *,
        since_s: float,
        first_s: float,
        repeat_s: float,
    ) -> None:
        self.what = what
        self._owing, self._since_s = owing, since_s
        self._stalls = StallReports(first_s=first_s, repeat_s=repeat_s, end_s=math.inf)

    def report(self, now_s: float) -> str:
        """For how long, for what, and who owes it, where that is due; else empty."""
        if self._owing is None or self._stalls.look(self._since_s, now_s) != "report":
            return ""
        return f"{lasting(now_s - self._since_s)} for {self.what}; {self._owing()}"


def lasting(seconds: float) -> str:
    """How long something has lasted until now, and since when."""
    began = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
    return f"{seconds:.0f} s (since {began})"


def listed(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = len(names) - _MOST_NAMES
    text = ", ".join(map(repr, names[:_MOST_NAMES]))
    return f"{text} and {more} more" if more > 0 else text


def situation(rank: int, last_step: int, variables: Sequence[str], others: Sequence[str]) -> str:
    """Where worker `rank` was when it heard of a failure.

    Args:
      last_step: that it has begun; -1 before the first.
      variables: whose sums it waited for.
      others: what else it waited for, in words.
    """
    when = f"in step {last_step}" if last_step >= 0 else "before its first step"
    what = awaited(variables, others) or "nothing"
    return f"rank {rank} was {when} and waited for {what}"


def awaited(variables: Sequence[str], others: Sequence[str]) -> str:
    """What is waited for: the sums of `variables`, and what else, in words; "" for nothing."""
    return ", ".join([*([listed(variables)] if variables else []), *others])
