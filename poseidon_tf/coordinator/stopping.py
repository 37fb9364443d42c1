"""Where one worker is in its training, and after which execution it stops. No threads, no sockets.

An execution is what cannot be interrupted: one call of the training function. All workers run the
same executions. Whoever wants to stop offers the execution after which it can; so does then every
worker, and all stop after the latest of the offers.

Rule 1: a worker that has offered n begins nothing after n until it knows what was agreed.
Rule 2: a worker in an execution that the asking one has not run offers it at once: it may not be
        able to end it before the asking one has joined.
Rule 3: a worker that is not there yet first runs what the asking one has run: it may want to stop
        at the same place, and if all do, nobody runs one more.
"""

from __future__ import annotations

from typing import final

from poseidon_tf.coordinator.messages import StopOffer


@final
class Stopping:
    """One worker's side. A method returns the offer that follows, to be sent, or None."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._begun = self._finished = 0  # Executions, over the life of the job.
        self._is_pausing = True
        self._number = 0  # Of the stop that is, or was last, agreed on.
        self._asked_after: int | None = None
        self._offered: int | None = None
        self._agreed: int | None = None

    @property
    def must_wait(self) -> bool:
        """Whether this worker has run all that it offered and does not know what was agreed."""
        is_running = self._begun > self._finished
        return (
            self._offered is not None
            and self._agreed is None
            and self._finished >= self._offered
            and not is_running
        )

    @property
    def is_due(self) -> bool:
        """Whether all have agreed to stop here."""
        return self._agreed is not None and self._finished >= self._agreed

    @property
    def is_asked(self) -> bool:
        """Whether another worker wants to stop, and this one has run what that one has."""
        return self._asked_after is not None and self._finished >= self._asked_after

    @property
    def is_agreed(self) -> bool:
        """Whether this worker knows after which execution all stop."""
        return self._agreed is not None

    def begin(self) -> StopOffer | None:
        """The next execution begins."""
        self._is_pausing = False
        self._begun += 1
        return self._offer(self._begun) if self.is_asked else None

    def end(self) -> StopOffer | None:
        """The execution has ended."""
        self._finished = self._begun
        return None

    def pause(self) -> StopOffer | None:
        """The epoch is over; until the next execution begins this worker can stop where it is."""
        self._is_pausing = True
        self._finished = self._begun  # Also one that failed.
        return None if self._asked_after is None else self._offer(self._begun)

    def want(self) -> StopOffer | None:
        """This worker wants to stop after what it has begun."""
        if self._asked_after is None and self._offered is None:
            self._number += 1
        return self._offer(self._begun)

    def asked(self, number: int, after: int) -> StopOffer | None:
        """Another worker wants to stop after `after` executions."""
        if number > self._number:
            self._number, self._offered, self._agreed = number, None, None
        self._asked_after = after
        is_running_more = self._begun > max(after, self._finished)
        return self._offer(self._begun) if self._is_pausing or is_running_more else None

    def agree(self, after: int) -> None:
        """All workers stop after `after` executions."""
        self._agreed = after

    def forget(self) -> StopOffer | None:
        """All workers know of the stop and have heeded it; the next one is another."""
        self._asked_after = self._offered = self._agreed = None
        return None

    def _offer(self, after: int) -> StopOffer | None:
        if self._offered is not None:
            return None
        self._offered = after
        return StopOffer(number=self._number, after=after, timeout_s=self._timeout_s)
