"""What processes have used of the processors, their children included, as Linux counts it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of `pids` and all that they have started and that still run."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # After the name, which may hold spaces: state, parent, ..., user and system time.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has just ended.
        pid = int(entry.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    wanted = set(pids)
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in wanted}
        grown = not children <= wanted
        wanted |= children
    return sum(ticks.get(pid, 0) for pid in wanted) / os.sysconf("SC_CLK_TCK")
