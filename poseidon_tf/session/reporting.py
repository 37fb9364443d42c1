"""Tells the coordinator, now and then, how this worker is doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import final

from poseidon_tf.coordinator.limits import MAX_NAME_CHARS
from poseidon_tf.coordinator.messages import Figures
from poseidon_tf.session.periodic import PERIOD_S, Periodic
from poseidon_tf.session.session import Session
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.transport.base import shortened

_MOST_STEPS = 100  # Of which the medians are.
_RATE_S = 1.0  # Steps in less than that say little about how many there are in a second.


@final
class Reporter:
    """One worker's; a thread of its own reports every `period_s` seconds until `close`.

    Args:
      statistics: of this worker.
      tell: takes the figures to the coordinator; must not wait.
    """

    def __init__(
        self,
        session: Session,
        statistics: Callable[[], Statistics],
        tell: Callable[[Figures], object],
        *,
        period_s: float = PERIOD_S,
    ) -> None:
        self._session, self._statistics, self._tell = session, statistics, tell
        self._lock = threading.Lock()
        self._counted, self._counted_s, self._rate = 0, time.monotonic(), 0.0
        self._first_step = 0
        self._periodic = Periodic(self.report, period_s=period_s)

    def begin(self) -> None:
        """Another training begins: medians are of its steps alone."""
        self._session.interrupt_steps()
        with self._lock:
            self._first_step = self._session.steps

    def report(self) -> None:
        """Tell how this worker is doing now."""
        self._tell(self.figures())

    def figures(self) -> Figures:
        """How this worker is doing now."""
        told, session = self._statistics(), self._session
        waits_s = session.oldest_wait_s
        with self._lock:
            rate = self._steps_per_s(told.steps)
            most_steps = min(_MOST_STEPS, told.steps - self._first_step - 1)
        times = session.step_times(max(0, most_steps))
        return Figures(
            steps=told.steps,
            steps_per_s=rate,
            step_s=times.step_s,
            own_s=times.own_s,
            waiting_s=times.waiting_s,
            communicating_s=times.communicating_s,
            total_waiting_s=told.waiting_s,
            total_communicating_s=told.communicating_s,
            ps_bytes=told.ps.network_bytes,
            sfb_bytes=told.sfb.network_bytes,
            rows_bytes=told.rows.network_bytes,
            ring_all_reduce_bytes=told.ring_all_reduce_bytes,
            reconnections=told.reconnections,
            oldest_wait_s=waits_s,
            waits_for=shortened(session.waits_for(), most_chars=MAX_NAME_CHARS),
        )

    def close(self) -> None:
        """End the thread."""
        self._periodic.close()

    def _steps_per_s(self, steps: int) -> float:
        now_s = time.monotonic()
        if (lasted_s := now_s - self._counted_s) >= _RATE_S:
            self._rate = (steps - self._counted) / lasted_s
            self._counted, self._counted_s = steps, now_s
        return self._rate
