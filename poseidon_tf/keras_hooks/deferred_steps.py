"""The graphs of a `fit` that updates variables at the beginning of the next step.

A step as Keras has it ends with `optimizer.apply`, which needs the sums of all gradients. Here a
step sends its gradients and ends, and the next one begins with that `apply`, on sums that may
still be on their way. TensorFlow lets a read of a variable wait for the assignments before it, and
for no others: the forward pass of a layer waits for this layer's sums. Per variable nothing else
happens than before, in the same order, so the bits are the same.

There are three graphs, all traced from Keras's own `train_step`: the `first` step, before which
nothing is pending; a `steady` one, which begins with the pending update; and the `flush`, which is
that update alone. One graph with a branch would not do: a branch waits for all that it may need.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.open_unit import OpenUnit
from poseidon_tf.strategy.runtime import Runtime

_traced = threading.local()


class CannotDefer(Exception):
    """What is traced shows that an update must be made in its own step."""


def send_instead() -> Callable[[Any, Sequence[Any], Any], None] | None:
    """What takes the place of `optimizer.apply` in a step that is being traced, if anything."""
    steps: Steps | None = getattr(_traced, "steps", None)
    return None if steps is None else steps.send


@dataclass(frozen=True, slots=True)
class Update:
    """What `optimizer.apply` will be given.

    Attributes:
      kinds: of the gradients, each None where there is none, else its dtype and, of rows, that of
        their indices.
    """

    optimizer: Any
    variables: tuple[Any, ...]
    kinds: tuple[tuple[tf.DType, tf.DType | None] | None, ...]

    @property
    def present(self) -> list[int]:
        """The positions of the variables that have a gradient."""
        return [at for at, kind in enumerate(self.kinds) if kind is not None]

    def is_as(self, other: Update) -> bool:
        """Whether both update the same variables with gradients of the same kinds."""
        return (
            self.optimizer is other.optimizer
            and list(map(id, self.variables)) == list(map(id, other.variables))
            and self.kinds == other.kinds
        )


class _OneInLoop(int):
    """1, for which Keras makes a loop as for more."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


@final
class Execution(tf_internals.TensorFlowTrainer):  # type: ignore[misc]
    """Keras's trainer around another step, with another number of steps in an execution.

    Args:
      in_loop: one step is the body of a loop too. TensorFlow rewrites what is in a loop in its own
        way, which the last bits of a normalization show; and what layers reduce over the workers
        is named after the loops around it, while one worker may take alone a step that another
        takes among several.
    """

    def __init__(self, step: Callable[[Any], Any], steps: int, *, in_loop: bool) -> None:
        super().__init__()
        self._step = step
        self.steps_per_execution = _OneInLoop(1) if in_loop and steps == 1 else steps
        self.jit_compile = False
        self.make_train_function()

    @property
    def steps_per_execution(self) -> int:
        """How many steps; outside of graphs never 1.

        From its version 3.16 on Keras takes the data of a lone step before the step is traced, and
        a trace that refuses to defer would lose it. It takes that of several in their graph.
        """
        return self._num_steps if tf.inside_function() else max(self._num_steps, 2)

    @steps_per_execution.setter
    def steps_per_execution(self, steps: int) -> None:
        self._num_steps = steps

    def train_step(self, data: Any) -> Any:
        """What Keras runs in each replica."""
        return self._step(data)


@final
class Steps:
    """The graphs of one model's training function.

    Attributes:
      num: steps in an execution.
      in_step: the same number of steps with their updates, once a trace has refused to defer them.
        Keras's own function may have one step outside of the loop that it is in for the others,
        who may go on deferring: then the reductions of layers would have other names here.
      update: what is pending after a step; None before the first trace.
      units: on which it comes.
      updated: the `id` of each variable of Keras that it changes.
      begun: by unit, how often it had been contributed to when it was first known here.
      why_not: why the update cannot be deferred, as a trace has shown; empty if it can.
    """

    def __init__(self, runtime: Runtime, model: Any) -> None:
        self._runtime = runtime
        self._model = weakref.ref(model)  # These steps live as long as Keras's function of it.
        self.num: int = model.steps_per_execution
        self.update: Update | None = None
        self.units: Sequence[OpenUnit] = ()
        self.updated: frozenset[int] = frozenset()
        self.begun: list[int] = []
        self.why_not = ""
        strategy = model.distribute_strategy
        with strategy.scope():
            self.first = self.function(self._send_step, steps=1)
            self.steady = self.rest = self.function(self._steady_step, steps=self.num)
            if self.num > 1:
                self.rest = self.function(self._steady_step, steps=self.num - 1)
            self.in_step = self.function(self.keras_step, steps=self.num)
        # Nothing here is for AutoGraph, which would take seconds to read all of it: as in Keras.
        self.flush = tf.function(lambda: strategy.run(self._make_update), autograph=False)

    def function(self, step: Callable[[Any], Any], *, steps: int) -> Callable[[Any], Any]:
        """A training function of so many steps, in a loop where the model's own has one."""
        made: Callable[[Any], Any] = Execution(step, steps, in_loop=self.num > 1).train_function
        return made

    def keras_step(self, data: Any) -> Any:
        """The step that the model has of Keras, with its update."""
        model = self._model()
        assert model is not None, "the model's training function has outlived it"
        return model.train_step(data)

    def num_pushes(self) -> list[int]:
        """By unit, how often it was contributed to."""
        return [unit.route.num_pushes for unit in self.units]

    @property
    def are_of_one_plan(self) -> bool:
        """Whether what is still to be traced of these graphs fits to what was: the same units."""
        return not self.units or self._runtime.gradients.are_in_use(self.units)

    def _steady_step(self, data: Any) -> Any:
        # A step without data does not take place: nothing of an update may begin before.
        tensors = [each for each in tf.nest.flatten(data, True) if tf.is_tensor(each)]
        with tf.control_dependencies(tensors):
            self._make_update()
        return self._send_step(data)

    def _send_step(self, data: Any) -> Any:
        graph, _traced.begin = tf_internals.graph(), None
        _traced.steps = self
        try:
            logs = self.keras_step(data)
        finally:
            _traced.steps = None
        if _traced.begin is None:
            self._refuse("the step makes no update")
        self._check_rest_of_step(graph.get_operations()[_traced.begin :])
        if (seeded := _stateful_random(graph)) is not None:
            self._refuse(f"{seeded} has a state in each graph; keras.random has one in a variable")
        return logs

    def send(self, optimizer: Any, gradients: Sequence[Any], variables: Any) -> None:
        """Contribute, and leave the update to the next step; for a replica that is traced."""
        if _traced.begin is not None:
            self._refuse("a step calls optimizer.apply more than once")
        if variables is None or not optimizer.built:
            self._refuse("the optimizer is not built yet")
        variables = list(variables)
        update = Update(optimizer, tuple(variables), tuple(_kind(each) for each in gradients))
        if not update.present:
            self._refuse("no variable has a gradient")
        if self.update is not None and not self.update.is_as(update):
            self._refuse("the step has other gradients for another shape of its data")
        self.units = self._runtime.gradients.send(
            optimizer,
            [gradients[at] for at in update.present],
            [variables[at] for at in update.present],
        )
        self.update, self.begun = update, self.begun or self.num_pushes()
        self.updated = frozenset(map(id, (*variables, *optimizer.variables)))
        _traced.begin = len(tf_internals.graph().get_operations())

    def _make_update(self) -> None:
        """What the step before has left: Keras's whole `apply`, on the sums."""
        update = self.update
        assert update is not None, "nothing was sent"
        variables = [update.variables[at] for at in update.present]
        sums: list[Any] = [None] * len(update.variables)
        like = [
            _like(update.kinds[at], variable)
            for at, variable in zip(update.present, variables, strict=True)
        ]
        received = self._runtime.gradients.receive(update.optimizer, like, variables)
        for at, total in zip(update.present, received, strict=True):
            sums[at] = total
        with self._runtime.sums.done():
            update.optimizer.apply(sums, list(update.variables))
        self._runtime.gradients.record_applied(variables)

    def _check_rest_of_step(self, operations: Sequence[tf.Operation]) -> None:
        """Refuse to defer where something after the update would still see the old values."""
        assert self.update is not None
        updated = (*self.update.variables, *self.update.optimizer.variables)
        handles = {
            id(each.handle) for variable in updated for each in tf_internals.components(variable)
        }
        for operation in operations:
            for tensor in operation.inputs:
                if tensor.dtype != tf.resource:
                    continue
                outer = tf_internals.captured_from_outside(tensor)
                if id(tensor if outer is None else outer) in handles:
                    self._refuse(f"{operation.name} uses a variable after its update")

    def _refuse(self, why: str) -> None:
        self.why_not = why
        raise CannotDefer(why)


def _kind(gradient: Any) -> tuple[tf.DType, tf.DType | None] | None:
    if gradient is None:
        return None
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    return gradient.dtype, gradient.indices.dtype if is_sparse else None


def _like(kind: tuple[tf.DType, tf.DType | None] | None, variable: Any) -> Any:
    """A gradient of that kind for `variable`, which is never computed."""
    assert kind is not None
    dtype, index_dtype = kind
    if index_dtype is None:
        return tf.zeros([], dtype)
    shape = list(variable.shape)
    rows = tf.zeros([0, *shape[1:]], dtype)
    return tf.IndexedSlices(rows, tf.zeros([0], index_dtype), tf.constant(shape, index_dtype))


def _stateful_random(graph: Any) -> str | None:
    """The type of an operation that keeps the state of its random numbers in its graph, if any."""
    for operation in graph.get_operations():
        if "seed2" in operation.node_def.attr:
            return str(operation.type)
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            if "seed2" in node.attr:
                return str(node.op)
    return None


# By Keras's training function, which `compile` makes anew: a second `fit` traces nothing again.
_made: weakref.WeakKeyDictionary[Any, Steps] = weakref.WeakKeyDictionary()


def steps_of(runtime: Runtime, model: Any) -> Steps:
    """The graphs that stand for `model.train_function`, as Keras has made it."""
    steps = _made.get(model.train_function)
    if steps is None or steps.num != model.steps_per_execution or not steps.are_of_one_plan:
        steps = _made[model.train_function] = Steps(runtime, model)
    return steps
