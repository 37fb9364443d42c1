"""What the processes of bench_transport have in common: who they are, what has arrived, timing."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any, final

# Far more than a step takes; without it a lost stream would look like a slow one.
PATIENCE_S = 60.0


def task() -> tuple[int, list[str]]:
    """This process's rank and the addresses of all, from TF_CONFIG."""
    config = json.loads(os.environ["TF_CONFIG"])
    return config["task"]["index"], config["cluster"]["worker"]


@final
class Arrivals:
    """Counts what has arrived, and keeps the first error of a stream for whoever waits."""

    def __init__(self) -> None:
        self._count = 0
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def add(self, *_: Any) -> None:
        """One more; takes and ignores what callbacks are called with."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def lost(self, *arguments: Any) -> None:
        """A stream ended; the error is the last argument."""
        with self._changed:
            self._error = self._error or arguments[-1]
            self._changed.notify_all()

    def take(self, count: int) -> None:
        """Wait for `count` of them and begin anew.

        Raises:
          RuntimeError: a stream ended with an error, or they have not come in `PATIENCE_S`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._count >= count or self._error is not None, PATIENCE_S
            )
            if self._error is not None or self._count < count:
                raise RuntimeError(f"{self._count} of {count} came: {self._error or 'too late'}")
            self._count -= count


def timed(step: Callable[[], None], steps: int) -> list[float]:
    """Seconds of each of `steps` steps."""
    seconds = []
    for _ in range(steps):
        begin_s = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin_s)
    return seconds


def cpu() -> float:
    """CPU seconds that this process has used."""
    return time.process_time()
