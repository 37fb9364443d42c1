"""A worker that is asked to end before it is done. No threads, no signals, no clock.

Who notices it asks here; training looks when it can stop, and all workers stop together. A
scheduler that takes a machine away sends SIGTERM first, and takes `EXIT_CODE` for "start me again".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

EXIT_CODE = 143  # 128 + SIGTERM.
# Under which a server tells the workers that it was asked to end.
TOPIC = "asked to end"


class Preempted(SystemExit):
    """All workers have stopped after the same step; the process ends with EXIT_CODE."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_CODE)
        self.reason = reason


@final
class Preemption:
    """One worker's side.

    Attributes:
      reason: who was asked to end, and how; "" as long as this worker knows of nobody.
      is_heeded: the workers have stopped for it.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.is_heeded = False
        self._num_watching = 0

    @property
    def is_watched(self) -> bool:
        """Whether this worker is where it will notice, and stop in order."""
        return self._num_watching > 0

    def ask(self, reason: str) -> None:
        """End soon; the first reason counts. Takes no lock: signal handlers call it."""
        self.reason = self.reason or reason

    def heed(self, reason: str) -> None:
        """The workers stop for `reason`."""
        self.ask(reason)
        self.is_heeded = True

    def watch(self) -> None:
        """From now on this worker notices when it is asked to end."""
        self._num_watching += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within: this worker notices when it is asked to end."""
        self.watch()
        try:
            yield
        finally:
            self._num_watching -= 1
