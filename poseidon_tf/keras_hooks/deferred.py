"""A `fit` that updates variables at the beginning of the next step.

Between two executions of Keras's training function an update may be pending. It is made before
anything but the next step may look at a variable: at the end of an epoch, before a callback that
may look, when variables are compared, when `fit` is left in whatever way, and when some thread
reads a variable of Keras outside of a graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError, PoseidonError
from poseidon_tf.keras_hooks.deferred_steps import CannotDefer, steps_of
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.strategy.runtime import Runtime

_fits: list[DeferredUpdates] = []  # Those that are running.


@final
class DeferredUpdates:
    """One `fit` that defers its updates.

    Args:
      observer: a callback that looks at variables between two executions; empty for none.
    """

    def __init__(self, runtime: Runtime, *, observer: str) -> None:
        self._runtime, self._updates, self._observer = runtime, runtime.updates, observer
        # Held by a step or a flush; and by whoever wants a flush, or waits for another thread's.
        self._lock, self._flushing = threading.RLock(), threading.RLock()
        self._is_running = self._is_pending = False
        self._first_logs: Any = None
        self._why_not = ""  # As the first trace of this `fit` has shown.

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within: updates are deferred. At its end none is pending."""
        with self._updates.deferred_by(self.flush):
            _fits.append(self)
            try:
                yield
            finally:
                try:
                    # What has failed the job was raised where it was seen; no sums come any more.
                    if self._runtime.worker.session.failure is None:
                        self._updates.flush("end of fit")
                finally:
                    _fits.remove(self)

    def train_function(self, model: Any) -> Callable[[Any], Any]:
        """What stands for `model.train_function`, which Keras has made."""
        self._model, self._in_step = model, model.train_function
        self._steps = steps_of(self._runtime, model)
        if self._steps.why_not or self._why_not:  # An earlier `fit`, or epoch, has found that out.
            self._steps.why_not = self._steps.why_not or self._why_not
            self._refuse_if_told_to_defer()
            self._updates.no_more(self._steps.why_not)
        return self._execute

    def flush(self) -> bool:
        """Make the pending update; whether there was one.

        Another thread that comes while a step runs gets what it would get of any step.
        """
        with self._flushing:
            if not self._lock.acquire(blocking=False):
                return False
            try:
                if self._is_running or not self._is_pending:
                    return False
                self._is_running = True
                try:
                    self._steps.flush()
                except BaseException as failure:
                    self._fail(failure)  # It may be half of an update, and does not come again.
                    raise
                finally:
                    self._is_running = self._is_pending = False
                return True
            finally:
                self._lock.release()

    def flush_for(self, variable: Any, what: str) -> None:
        """Make the pending update if it changes this variable of Keras.

        Any thread may call it.

        Args:
          what: is about to happen to the variable.
        """
        is_pending = self._is_pending and not self._is_running
        if is_pending and id(variable) in self._steps.updated:
            self._updates.flush(f"{what} of a variable")

    def _execute(self, iterator: Any) -> Any:
        """One execution, of one or several steps."""
        if self._steps.why_not:
            return self._steps.in_step(iterator)
        logs, end = None, None
        with self._lock:
            was_pending, before = self._is_pending, self._steps.num_pushes()
            self._is_running = True
            try:
                logs = self._take_steps(iterator, before)
            except (StopIteration, tf.errors.OutOfRangeError) as end_of_data:
                end = end_of_data  # No step was taken, and what was pending still is.
                if self._taken(before) != {0}:  # Something else has ended, within a step.
                    self._settle(end_of_data, self._taken(before))
                    raise
            except CannotDefer:
                pass  # Nor here: `why_not` says why.
            except BaseException as failure:
                self._settle(failure, self._taken(before))
                raise
            finally:
                self._is_running = False
        if end is not None:
            self._updates.flush("end of epoch")
            if self._steps.num > 1:
                raise end
            # Keras's own function gets to the end as well. There it may count a step without data
            # in `optimizer.iterations`, which the next updates depend on; so it does here.
            return self._in_step(iterator)
        taken = max(self._taken(before))
        self._updates.deferred(taken if was_pending else max(taken - 1, 0))
        if self._steps.why_not:
            return self._go_on_in_step(iterator, taken)
        if self._observer:
            self._updates.flush(f"callback {self._observer}")
        return logs

    def _take_steps(self, iterator: Any, before: list[int]) -> Any:
        if self._is_pending:
            return self._steps.steady(iterator)
        logs = self._first_logs = self._steps.first(iterator)
        self._is_pending = True
        if self._steps.num > 1:
            try:
                logs = self._steps.rest(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                if len(self._taken(before)) > 1:
                    raise  # Something else has ended, within a step; else there was no more data.
        return logs

    def _taken(self, before: list[int]) -> set[int]:
        """How many steps have been contributed to; several numbers if a step stopped halfway."""
        now = self._steps.num_pushes()
        return {b - a for a, b in zip(before or self._steps.begun, now, strict=True)} or {0}

    def _settle(self, failure: BaseException, taken: set[int]) -> None:
        """Find out what is pending after an execution that has raised."""
        if not isinstance(failure, tf.errors.OpError):
            # Python has raised before or after the graph ran, as on Ctrl-C, or while it was traced.
            if len(taken) == 1:
                self._is_pending = self._is_pending or taken != {0}
                return
        was_pending, self._is_pending = self._is_pending, False
        if was_pending:
            self._fail(failure)
        elif taken != {0}:
            self._fail(failure, "after some of its gradients had left for the other workers")

    def _fail(self, failure: BaseException, when: str = "") -> None:
        """End the job, unless it has ended.

        Args:
          when: the step has failed; empty where some variables may have its update already.
        """
        session = self._runtime.worker.session
        when = when or (
            "that began with the update of the step before, so this worker's variables may be "
            "between two steps; go on from a checkpoint, or take defer_updates=False to have the "
            "values of the step before"
        )
        if session.failure is None:
            self._runtime.gradients.fail(
                PoseidonError(
                    f"{session.name}: a step failed {when}: {type(failure).__name__}: {failure}"
                )
            )

    def _go_on_in_step(self, iterator: Any, taken: int) -> Any:
        """The rest of an execution of which `taken` steps have been taken, and all that follow."""
        self._refuse_if_told_to_defer()
        self._why_not = self._steps.why_not
        self._updates.flush("updates in the step from here on")
        self._updates.change_to_in_step(self._steps.why_not)
        if not taken:
            return self._steps.in_step(iterator)
        with self._model.distribute_strategy.scope():
            rest = self._steps.function(self._steps.keras_step, steps=self._steps.num - taken)
        try:
            return rest(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):  # There was data for those steps.
            return self._first_logs

    def _refuse_if_told_to_defer(self) -> None:
        if self._runtime.options.defer_updates != "auto":
            raise impossible(self._steps.why_not)


def impossible(why: str) -> ConfigError:
    """What to raise where updates cannot be deferred, and must be."""
    return ConfigError(
        f'defer_updates=True, but updates must be made in the step: {why}; take "auto"'
    )


def _before(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A hook of a method with a value: before it, what is pending of the variable is made."""

    def hook(original: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(self: Any, value: Any) -> Any:
            if _fits and tf.executing_eagerly():
                for fit in list(_fits):
                    fit.flush_for(self, what)
            return original(self, value)

        return hooked

    return hook


HOOKS = (
    Hook(
        keras.Variable,
        "_maybe_autocast",
        _before("read"),
        "whoever reads a variable between two steps gets it with its last update",
    ),
    Hook(
        keras.Variable,
        "assign",
        _before("assignment"),
        "what is assigned between two steps comes after the update of the last one",
    ),
)
