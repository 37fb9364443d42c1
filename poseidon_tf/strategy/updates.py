"""When a worker's variables are updated: in the step, or at the beginning of the next one.

Between two steps of a `fit` that defers, an update may be pending: its sums may still be on their
way. Whoever is about to look at a variable has it made first, by `flush`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import final

from poseidon_tf.session.statistics import UpdateStatistics

_ELSEWHERE = "only Model.fit defers them"


@final
class Updates:
    """Of one worker.

    Args:
      show: shows the user a line.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._flush: Callable[[], bool] | None = None
        self._why_in_step = _ELSEWHERE
        self._num_deferred = 0
        self._flushes: Counter[str] = Counter()

    @contextlib.contextmanager
    def deferred_by(self, flush: Callable[[], bool]) -> Iterator[None]:
        """Within: updates are deferred.

        Args:
          flush: makes the pending update; whether there was one. Any thread may call it.
        """
        before = self._flush, self._why_in_step
        self._flush, self._why_in_step = flush, ""
        try:
            yield
        finally:
            self._flush = before[0]
            if self._flush is not None:  # This was a `fit` within another one.
                self._why_in_step = before[1]

    def in_step(self, why: str) -> None:
        """A `fit` makes them in the step, for this reason; not one within another that defers."""
        if self._flush is None:
            self._why_in_step = why

    def no_more(self, why: str) -> None:
        """Whoever defers them does so no more, for this reason."""
        self._why_in_step = why

    def change_to_in_step(self, why: str) -> None:
        """The same where the user has been told otherwise."""
        self.no_more(why)
        self._show(self.line)

    def deferred(self, steps: int) -> None:
        """So many more were made at the beginning of the next step."""
        self._num_deferred += steps

    def flush(self, cause: str) -> None:
        """Make the pending update now, if there is one.

        Args:
          cause: what needs it, for `statistics`.

        Raises:
          tf.errors.OpError, PoseidonError: its sums did not come, as in a step.
        """
        flush = self._flush  # Another thread may leave its `fit` meanwhile.
        if flush is not None and flush():
            self._flushes[cause] += 1

    @property
    def are_deferred(self) -> bool:
        """Whether they are made at the beginning of the next step."""
        return not self._why_in_step

    @property
    def line(self) -> str:
        """When updates are made, for a person to read."""
        if self._why_in_step:
            return f"Updates: in the step ({self._why_in_step})."
        return (
            "Updates: at the beginning of the next step, which waits for each variable's sum "
            "where it reads the variable."
        )

    def statistics(self) -> UpdateStatistics:
        """What has become of this worker's updates until now."""
        return UpdateStatistics(
            deferred=self._num_deferred,
            flushes=dict(self._flushes),
            why_in_step=self._why_in_step,
        )
