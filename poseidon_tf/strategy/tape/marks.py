"""Remembers which gradients a tape has summed, so that no optimizer sums them once more.

In a graph that can be seen: whatever is computed from a sum is a sum. An eager tensor does not
show where it came from. The tensors that a tape has returned are known; another one, such as a
clipped gradient, counts as a sum if a tape has summed its variable and no optimizer has taken
that sum yet. It must then be the same on all workers. Whatever stays in doubt is an error.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import PlanError
from poseidon_tf.strategy import tf_internals

# Elements of each gradient that workers compare: those of other batches differ in all of them.
_SAMPLE = 8


@final
class TapeMarks:
    """The sums that one strategy's tapes have returned.

    Args:
      gather: every worker's bytes, in rank order; all workers call it together.
    """

    def __init__(self, gather: Callable[[str, bytes], list[bytes]]) -> None:
        self._gather = gather
        self._eager: dict[int, weakref.ref[Any]] = {}
        self._traced: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
        # By variable, whether the sum that no optimizer has taken yet is an eager tensor.
        self._waiting: dict[str, bool] = {}

    def note(self, sums: Sequence[tf.Tensor], variables: Sequence[Any]) -> None:
        """A tape returns `sums`."""
        eagerly = tf.executing_eagerly()
        for total in _tensors_of(sums):
            if eagerly:
                key = id(total)
                self._eager[key] = weakref.ref(total, functools.partial(self._drop, key))
            else:
                self._traced.setdefault(total.graph, set()).add(total.name)
        for variable in variables:
            self._waiting[tf_internals.variable_id(variable)] = eagerly

    def forget(self) -> None:
        """Nothing that a tape has summed until now will reach an optimizer."""
        self._waiting.clear()

    def are_sums(
        self, names: Sequence[str], gradients: Sequence[Any], variables: Sequence[Any]
    ) -> bool:
        """Whether an optimizer is given sums, which it takes; False if they are local gradients.

        Raises:
          PlanError: some are and some are not, or it cannot be told.
        """
        keys = [tf_internals.variable_id(variable) for variable in variables]
        waiting = [key in self._waiting for key in keys]
        known = self._known(gradients)
        if not any(known) and not any(waiting):
            return False
        if not all(known):
            self._check_doubtful(names, gradients, keys, known)
        for key in keys:
            self._waiting.pop(key, None)
        return True

    def _check_doubtful(
        self, names: Sequence[str], gradients: Sequence[Any], keys: Sequence[str], known: list[bool]
    ) -> None:
        """Raise unless the gradients that are not known must be sums that the user has changed."""
        doubtful = [at for at, is_known in enumerate(known) if not is_known]
        local = [at for at in doubtful if keys[at] not in self._waiting]
        if local:
            summed = next(at for at in range(len(names)) if at not in local)
            raise PlanError(
                f"one optimizer.apply got the gradient of {names[summed]!r}, which "
                "poseidon_tf.GradientTape has summed over the workers, and that of "
                f"{names[local[0]]!r}, which it has not; take all of them from "
                "poseidon_tf.GradientTape, or none"
            )
        for at in doubtful:
            if not (tf.executing_eagerly() and self._waiting[keys[at]]):
                raise PlanError(
                    f"poseidon_tf.GradientTape has summed the gradient of {names[at]!r} in another "
                    "tf.function, or one of them outside of any, and this gradient may be computed "
                    "from it; call optimizer.apply in the same tf.function as tape.gradient"
                )
        self._check_same_everywhere(
            [names[at] for at in doubtful], [gradients[at] for at in doubtful]
        )

    def _check_same_everywhere(self, names: Sequence[str], gradients: Sequence[Any]) -> None:
        samples = []
        for gradient in gradients:
            values = tf.reshape(tf.convert_to_tensor(gradient), [-1])[:_SAMPLE]
            samples.append(tf.cast(values, tf.float64).numpy().tolist())
        everyone = [
            json.loads(theirs)
            for theirs in self._gather(
                "give optimizer.apply gradients that poseidon_tf.GradientTape has not returned",
                json.dumps(samples).encode(),
            )
        ]
        for rank, theirs in enumerate(everyone):
            for name, first, other in zip(names, everyone[0], theirs, strict=True):
                # Workers of other hardware may round what the user computes in another way.
                scale = np.max(np.abs(first), initial=0.0)
                if not np.allclose(other, first, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
                    raise PlanError(
                        f"the gradient of {name!r} is not the one that poseidon_tf.GradientTape "
                        f"returned, and differs between rank 0 and rank {rank}: it is a gradient "
                        "of this worker alone, or was changed differently on each worker; give "
                        "optimizer.apply what poseidon_tf.GradientTape returned, or change it "
                        "alike on all workers"
                    )

    def _known(self, gradients: Sequence[Any]) -> list[bool]:
        if tf.executing_eagerly():
            return [
                all(self._is_eager_sum(tensor) for tensor in _tensors_of([gradient]))
                for gradient in gradients
            ]
        if not self._traced and not self._eager:
            return [False] * len(gradients)
        barren: set[tuple[int, str]] = set()
        return [self._comes_from_sum(_values_of(gradient), barren) for gradient in gradients]

    def _is_eager_sum(self, tensor: Any) -> bool:
        reference = self._eager.get(id(tensor))
        return reference is not None and reference() is tensor

    def _comes_from_sum(self, tensor: Any, barren: set[tuple[int, str]]) -> bool:
        """Whether a traced tensor is, or is computed from, a sum that a tape has returned.

        Args:
          barren: graph and name of tensors that are not; gets those that are met.
        """
        stack, seen = [tensor], set()
        while stack:
            here = stack.pop()
            if not hasattr(here, "graph"):
                if self._is_eager_sum(here):
                    return True
                continue
            place = (id(here.graph), here.name)
            if place in seen or place in barren:
                continue
            seen.add(place)
            if here.name in self._traced.get(here.graph, ()):
                return True
            if here.op.type == "Placeholder":
                outer = tf_internals.captured_from_outside(here)
                stack += [] if outer is None else [outer]
            stack += here.op.inputs
        barren |= seen
        return False

    def _drop(self, key: int, _: weakref.ref[Any]) -> None:
        self._eager.pop(key, None)


def _tensors_of(gradients: Sequence[Any]) -> Iterator[Any]:
    yield from tf.nest.flatten(list(gradients), expand_composites=True)


def _values_of(gradient: Any) -> Any:
    """What carries a gradient's numbers: the indices of sparse rows are made of the input."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
