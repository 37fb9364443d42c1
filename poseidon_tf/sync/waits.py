"""What a worker waits for: when that is worth a report, when it is over, and how it is said.

No threads, no clock: times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    what = ", ".join([*([listed(variables)] if variables else []), *others]) or "nothing"
    return f"rank {rank} was {when} and waited for {what}"
