"""Remembers which variables have been given rank 0's values, and gives them to the others."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import PlanError
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.agreement import agree_on_values, made_alike


@final
class AgreedValues:
    """The variables of one worker whose values were the same on all workers once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._agreed: set[str] = set()
        self._optimizers: set[tuple[str, ...]] = set()
        # Since the last agreement on what was made in the strategy's scope: how many were, and
        # those of them that there still are.
        self._num_made = 0
        self._made: dict[int, weakref.ref[Any]] = {}
        self._has_begun = False

    def made(self, variable: Any) -> None:
        """A variable was made in the strategy's scope, whatever will use it."""
        dtype = variable.dtype
        is_number = dtype.is_floating or dtype.is_integer or dtype.is_complex or dtype.is_bool
        if is_number and variable.shape.is_fully_defined():
            self._made[self._num_made] = weakref.ref(variable)
            self._num_made += 1

    def begin(self) -> None:
        """Replicas are about to run: in eager mode, for the first time, the workers agree before.

        A first gradient would be taken at each worker's own values. Later a step that is traced
        agrees as it is traced, before it runs; nothing here depends on what one worker has made.
        """
        if not self._has_begun and tf.executing_eagerly():
            self.agree_on_made()

    def agree_on_made(self) -> None:
        """Give what was made in the scope rank 0's values; all workers call it together."""
        self._has_begun = True
        there = {number: reference() for number, reference in self._made.items()}
        count, self._num_made, self._made = self._num_made, 0, {}
        there = {n: each for n, each in there.items() if each is not None and self._new([each])}
        if variables := made_alike(self._worker, count, there):
            self.agree(variables, what="first values")

    def agree(self, variables: Sequence[Any], *, what: str) -> list[Any]:
        """Give `variables` rank 0's values; all workers call it together.

        Args:
          what: they are, in words, for errors.

        Returns:
          Those that had another value on some worker.

        Raises:
          PlanError: another worker has other variables; names the first difference.
        """
        differing = agree_on_values(self._worker, variables, what=what)
        self._agreed |= {tf_internals.variable_id(variable) for variable in variables}
        return [variables[at] for at in differing]

    def agree_on_new(self, variables: Sequence[Any], *, what: str) -> None:
        """The same for those of `variables` that were never agreed on, and for what was made in
        the scope besides; talks only if there are some of `variables`."""
        if new := self._new(variables):
            self.agree(new, what=what)
            self.agree_on_made()

    def agree_in_step(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """In a custom loop the variables of a step may not have been given rank 0's values yet.

        Raises:
          PlanError: an eager step has taken its gradients at other values than rank 0's.
        """
        is_traced = not tf.executing_eagerly()
        with tf.init_scope():
            if is_traced:  # What runs now has not run before: it may use all that was made.
                self.agree_on_made()
            own = self._new(variables)
            new = [*own, *self._new(getattr(optimizer, "variables", ()))]
            # All workers ask, even one that has nothing new: they must agree on that as well.
            changed = {id(each) for each in self.agree(new, what="first values")}
        late = [each for each in own if id(each) in changed]
        if late and not is_traced:
            raise self._worker.session.fail_together(
                PlanError(
                    f"{getattr(late[0], 'path', late[0].name)!r} had other first values on some "
                    f"worker as an eager step took its gradient ({len(late)} of {len(own)} "
                    "variables had); call keras.utils.set_random_seed with the same number on all "
                    "workers before the model is made, or make and build the model within "
                    "`with strategy.scope():` before the first strategy.run"
                )
            )

    def agree_on_optimizer(self, optimizer: Any) -> None:
        """Give an optimizer whose gradients are summed elsewhere rank 0's values, once."""
        key = tuple(tf_internals.variable_id(variable) for variable in optimizer.variables)
        if key not in self._optimizers:
            self._optimizers.add(key)
            self.agree_in_step(optimizer, [])

    def _new(self, variables: Sequence[Any]) -> list[Any]:
        return [v for v in variables if tf_internals.variable_id(v) not in self._agreed]
