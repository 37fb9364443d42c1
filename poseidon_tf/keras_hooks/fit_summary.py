"""Shows on rank 0 what a `fit` was like when it has ended."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, final

from poseidon_tf.coordinator.status import Status
from poseidon_tf.planner import predicted_step
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
        now = status()
        summary = summary_of(self._before, after, times, self._status_before, now)
        return summary and replace(summary, predicted_s=self._predicted_s(summary, now))

    def _predicted_s(self, summary: FitSummary, status: Status) -> float:
        """What a step lets expect whose computation is the slowest worker's; 0 if not known."""
        plan, machines = self._runtime.gradients.plan, self._runtime.machines
        computation_s = max((figures.own_s for _, figures in status.reporting), default=0.0)
        if plan is None or machines is None or computation_s <= 0.0 or not summary.times.steps:
            return 0.0
        return predicted_step(
            plan,
            self._runtime.gradients.contributed_s(),
            computation_s=computation_s,
            machines=machines,
            across_step=summary.is_deferred,
        ).step_s
