"""Does something now and then, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import final

_log = logging.getLogger("poseidon_tf")

PERIOD_S = 2.0


@final
class Periodic:
    """Calls `report` every `period_s` seconds until `close`.

    Args:
      report: tells the coordinator how this member is doing; must not wait.
    """

    def __init__(self, report: Callable[[], object], *, period_s: float = PERIOD_S) -> None:
        self._report, self._period_s = report, period_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poseidon-report", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._period_s):
            try:
                self._report()
            except Exception:  # The next report may come through; training needs none.
                _log.warning("the coordinator was not told of this member's figures", exc_info=True)
