"""What a strategy holds for tapes: their sums, and the memory that these are sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from poseidon_tf.strategy.gradients.exchange import GradientExchange
from poseidon_tf.strategy.tape.eager_sums import EagerSums
from poseidon_tf.strategy.tape.marks import TapeMarks

SumOverAll = Callable[[Any, Sequence[Any], Sequence[Any]], list[Any]]


@final
class TapeSums:
    """Sums for tapes over the routes of one worker.

    Args:
      sum_over_all: sums gradients of an optimizer, or of none, over all replicas.
      marks: get to know the sums.
    """

    def __init__(
        self, exchange: GradientExchange, sum_over_all: SumOverAll, marks: TapeMarks
    ) -> None:
        self._sum_over_all, self.marks = sum_over_all, marks
        self.eager = EagerSums(exchange)

    def of_whole_pass(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The `gradients` of a backward pass that is traced or over; None stays None."""
        present = [at for at, gradient in enumerate(gradients) if gradient is not None]
        sums: list[Any] = [None] * len(gradients)
        if present:
            totals = self._sum_over_all(
                None, [gradients[at] for at in present], [variables[at] for at in present]
            )
            for at, total in zip(present, totals, strict=True):
                sums[at] = total
        return self.marked(sums, variables)

    def marked(self, sums: list[Any], variables: Sequence[Any]) -> list[Any]:
        """`sums` as they are, remembered as such."""
        pairs = [
            (total, variable)
            for total, variable in zip(sums, variables, strict=True)
            if total is not None
        ]
        self.marks.note([total for total, _ in pairs], [variable for _, variable in pairs])
        return sums
