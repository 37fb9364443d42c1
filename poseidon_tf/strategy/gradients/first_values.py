"""Remembers which variables have been given rank 0's values, and gives them to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.agreement import agree_on_values


@final
class AgreedValues:
    """The variables of one worker whose values were the same on all workers once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._agreed: set[str] = set()
        self._optimizers: set[tuple[str, ...]] = set()

    def agree(self, variables: Sequence[Any], *, what: str) -> None:
        """Give `variables` rank 0's values; all workers call it together.

        Args:
          what: they are, in words, for errors.

        Raises:
          PlanError: another worker has other variables; names the first difference.
        """
        agree_on_values(self._worker, variables, what=what)
        self._agreed |= {tf_internals.variable_id(variable) for variable in variables}

    def agree_on_new(self, variables: Sequence[Any], *, what: str) -> None:
        """The same for those of `variables` that were never agreed on; talks only if there are."""
        if new := self._new(variables):
            self.agree(new, what=what)

    def agree_in_step(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """In a custom loop nobody has given the variables rank 0's values yet."""
        with tf.init_scope():
            new = self._new([*variables, *getattr(optimizer, "variables", ())])
            # All workers ask, even one that has nothing new: they must agree on that as well.
            self.agree(new, what="first values")

    def agree_on_optimizer(self, optimizer: Any) -> None:
        """Give an optimizer whose gradients are summed elsewhere rank 0's values, once."""
        key = tuple(tf_internals.variable_id(variable) for variable in optimizer.variables)
        if key not in self._optimizers:
            self._optimizers.add(key)
            self.agree_in_step(optimizer, [])

    def _new(self, variables: Sequence[Any]) -> list[Any]:
        return [v for v in variables if tf_internals.variable_id(v) not in self._agreed]
