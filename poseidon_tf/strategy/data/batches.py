"""How many rows a worker's batch has, where the traced step leaves it open.

In `fit` it is the batch of the training data, never that of the validation data; elsewhere it is
that of the datasets distributed so far, if they agree. The batch of the moment, a partial last
one, never counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class BatchSizes:
    """Remembers the batch of each dataset that the strategy distributes.

    Args:
      given: what the user said; it overrides everything.
    """

    def __init__(self, given: int | None) -> None:
        self._given = given
        self._expects_training_data = False
        self._of_fit: int | None = None
        self._is_in_fit = False
        self._elsewhere: set[int | None] = set()

    @contextmanager
    def fit(self, rows: int | None) -> Iterator[None]:
        """Within: the first dataset is the training data; `rows` counts if that cannot tell."""
        self._is_in_fit = self._expects_training_data = True
        self._of_fit = rows
        try:
            yield
        finally:
            self._is_in_fit = self._expects_training_data = False

    def saw(self, rows: int | None) -> None:
        """A dataset was distributed; `rows` of one worker's batch, None if unknown."""
        if not self._is_in_fit:
            self._elsewhere.add(rows)
        elif self._expects_training_data:
            self._expects_training_data = False
            self._of_fit = self._of_fit if rows is None else rows

    def rows(self) -> int | None:
        """Rows of one worker's training batch, or None."""
        if self._given is not None:
            return self._given
        if self._is_in_fit:
            return self._of_fit
        return next(iter(self._elsewhere)) if len(self._elsewhere) == 1 else None
