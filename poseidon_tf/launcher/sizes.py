"""How many workers each try of a local job has: fewer once some were lost, all when asked to.

No processes, no clock: how a try has ended comes in, what to say and how to go on comes out.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import final

from poseidon_tf.launcher.supervisor import Ending

MORE = signal.SIGUSR1  # Whoever sends it has room for all workers again.
# By which a process ends for a fault of its own: as many workers would end so again.
_OWN_FAULTS = frozenset(
    getattr(signal, name)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
)


@final
class Sizes:
    """Of one job.

    Args:
      least, most: workers that a try may have. Equal: all tries are of one size.
      max_restarts: how often the job is started anew after a failure.

    Attributes:
      workers: how many the next try has.
    """

    def __init__(self, least: int, most: int, max_restarts: int) -> None:
        self._least, self._most, self._max_restarts = least, most, max_restarts
        self._restarts = 0
        self.workers = most

    @property
    def is_elastic(self) -> bool:
        return self._least < self._most

    @property
    def may_grow(self) -> bool:
        """Whether `MORE` would change anything."""
        return self.workers < self._most

    @property
    def then(self) -> str:
        """What comes after a failure, as far as it is known before; empty for nothing."""
        if self.is_elastic or self._restarts == self._max_restarts:
            return ""
        return f"; restart {self._restarts + 1} of {self._max_restarts}"

    def goes_on(self, ending: Ending) -> bool:
        """Whether there is another try, whose size is `workers` from now on."""
        if ending.is_stopped or not ending.code:
            return False
        if ending.is_resized:
            self.workers = self._most
            return True
        if self._restarts == self._max_restarts:
            return False
        self._restarts += 1
        if ending.wants_more:
            self.workers = self._most
        else:
            self.workers = max(self._least, self.workers - len(lost(ending)))
        return True

    def said(self, ending: Ending) -> str:
        """Why there is another try, and how many workers it has."""
        reasons = [f"{label} was killed by signal {number}" for label, number in lost(ending)]
        if ending.is_resized or ending.wants_more:
            reasons.append(f"{MORE.name} came")
        number = self._restarts + 1
        return (
            f"{', '.join(reasons) or 'no worker was lost'}; starting again with {self.workers} of "
            f"{self._most} workers (try {number} of {self._max_restarts + 1})"
        )


def lost(ending: Ending) -> Sequence[tuple[str, int]]:
    """Workers that somebody else has ended, by SIGKILL for example: the machine has lost them."""
    return [each for each in ending.killed if each[1] not in _OWN_FAULTS]
