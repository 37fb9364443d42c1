"""Shows on rank 0 what a `fit` was like when it has ended."""

from __future__ import annotations

import logging
from typing import Any, final

from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.summary import FitSummary, summary_of

_log = logging.getLogger("poseidon_tf")


@final
class SummaryOfFit:
    """Of one `fit`, which begins now.

    Args:
      verbose: of `fit`; 0 prints nothing.
    """

    def __init__(self, runtime: Runtime, verbose: Any) -> None:
        self._runtime, self._verbose = runtime, verbose
        self._before = runtime.worker.statistics()
        self._status_before = runtime.status() if runtime.status is not None else None
        runtime.reporter.begin()

    def show(self) -> None:
        """`fit` has ended in order."""
        how, summary = self._runtime.options.show_summary, self._made()
        if summary is None:
            return
        if how == "print" and self._verbose:
            print(summary.text(), flush=True)
        elif how == "log":
            _log.info("%s", summary.text())

    def _made(self) -> FitSummary | None:
        worker, status = self._runtime.worker, self._runtime.status
        if status is None or self._status_before is None:  # Rank 0 speaks for all.
            return None
        after = worker.statistics()
        # The last step ends with the first gradient of the next, and has ended for none.
        num_timed = max(0, after.steps - self._before.steps - 1)
        times = worker.session.step_times(num_timed)
        return summary_of(self._before, after, times, self._status_before, status())
