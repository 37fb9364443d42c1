"""When a worker stops: after the same execution as all others, whoever wants to.

`coordinator.stopping` has the agreement and `session.preemption` who was asked to end; here they
come together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import final

from poseidon_tf.coordinator.messages import StopOffer
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.session.preemption import Preempted
from poseidon_tf.session.worker import Worker


@final
class Stops:
    """One worker's side."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._preemption = worker, worker.preemption

    @property
    def state(self) -> Stopping:
        """Where this worker is in its training, to be read."""
        return self._worker.coordinator.stopping

    @property
    def is_preempted(self) -> bool:
        """Whether this worker knows of a process that was asked to end."""
        return bool(self._preemption.reason)

    def advance(self, event: Callable[[Stopping], StopOffer | None]) -> bool:
        """Tell where this worker is in its training; whether all workers stop here.

        Raises:
          PoseidonError: the workers could not agree in time, or the job failed.
        """
        return self._worker.advance(event)

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Within: this worker looks now and then at whether a process was asked to end."""
        return self._preemption.watching()

    def between_steps(self) -> bool:
        """Whether all workers end between these steps, since some process was asked to end.

        Raises:
          PoseidonError: as `advance`.
        """
        if not self._preemption.is_watched:
            self._preemption.watch()
        is_due = self.advance(Stopping.end)
        if not is_due and (self.is_preempted or self.state.is_asked):
            is_due = self.advance(Stopping.want)
        if is_due:
            self._preemption.heed("another process was asked to end")
            return True
        self.advance(Stopping.begin)
        return False

    def end_if_preempted(self) -> None:
        """End the program if any worker knows of a process that was asked to end.

        All workers call it together, with nobody in a step.

        Raises:
          Preempted: on all workers.
        """
        own = self._preemption.reason.encode()
        everyone = self._worker.gather("end the epoch of fit", own)
        if reasons := [reason.decode() for reason in everyone if reason]:
            self._preemption.heed(reasons[0])
            raise Preempted(reasons[0])
