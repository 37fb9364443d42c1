"""A queue: what one link or one processor does, and when."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence


def finish_times(
    ready_s: Sequence[float],
    work_s: Sequence[float],
    urgency: Sequence[float],
    *,
    held_s: float = 0.0,
) -> list[float]:
    """When each is done by what does one at a time, and leaves it for what is more urgent.

    Args:
        ready_s: from when on each may be done.
        work_s: how long each takes.
        urgency: the least goes first; of equals, the first in order.
        held_s: of work that is handed over before it is its turn, and cannot be overtaken then.
    """
    left_s = list(work_s)
    done_s = list(ready_s)
    waiting: list[tuple[float, int]] = []
    now_s = done_until_s = 0.0  # Until then there is enough that has been handed over.
    in_order = sorted(range(len(left_s)), key=lambda at: ready_s[at])
    for position, at in enumerate(in_order):
        now_s = max(now_s, ready_s[at])
        heapq.heappush(waiting, (urgency[at], at))
        is_last = position == len(in_order) - 1
        until_s = math.inf if is_last else ready_s[in_order[position + 1]]
        while waiting and now_s < until_s:
            first = waiting[0][1]
            begun_s = max(now_s, done_until_s)
            if begun_s + left_s[first] - held_s <= until_s:
                done_s[first] = done_until_s = begun_s + left_s[first]
                now_s = max(now_s, done_until_s - held_s)
                heapq.heappop(waiting)
            else:
                done_until_s = until_s + held_s
                left_s[first] -= done_until_s - begun_s
                now_s = until_s
    return done_s
