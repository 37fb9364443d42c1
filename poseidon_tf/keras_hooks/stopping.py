"""Ends `fit` after the same execution on all workers, whoever's callback or scheduler wants it.

A worker that stopped alone would leave the others waiting for its gradients. An execution is one
call of the training function; as long as nobody wants to stop, none of this says a word during an
epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

import keras
import tensorflow as tf

from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.keras_hooks.fit_start import own_variables_of, trained_variables_of
from poseidon_tf.keras_hooks.progress import Progress
from poseidon_tf.strategy.runtime import Runtime


@final
class StopTogether(keras.callbacks.Callback):  # type: ignore[misc]
    """Agrees on every wish to stop; comes after all callbacks that could have one.

    Args:
      execution: makes of a model what is called in place of its training function, if anything.
    """

    # Keras calls no batch hooks in its own threads where a callback of the user's has one; where
    # none has, ours must not be what changes that.
    async_safe = True

    def __init__(
        self,
        runtime: Runtime,
        progress: Progress,
        execution: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self._runtime, self._stops, self._progress = runtime, runtime.stops, progress
        self._execution_of = execution
        self._thread = threading.get_ident()
        self._train_function: Callable[[Any], Any] | None = None
        self._execution: Callable[[Any], Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._stops.advance(Stopping.pause)
        self._stops.end_if_preempted()
        self._stand_in()

    def trace_again(self) -> None:
        """The model's step, and what is called in place of it, are traced before they run next."""
        self.model.make_train_function(force=True)
        self._stand_in()

    def _stand_in(self) -> None:
        self._train_function = self._execution = self.model.train_function
        if self._execution_of is not None:
            self._execution = self._execution_of(self.model)
        self.model.train_function = self._execute

    def release(self) -> None:
        """Give the model its training function back."""
        if self._train_function is not None:
            self.model.train_function = self._train_function

    def _execute(self, iterator: Any) -> Any:
        assert self._execution is not None
        self._stops.advance(Stopping.begin)
        try:
            logs = self._execution(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            # The data has ended, on all workers alike: this counts as an execution.
            self._stops.advance(Stopping.end)
            raise
        self._progress.took(self.model.steps_per_execution)
        # Part of the execution: who is asked to stop meanwhile must not take it for finished.
        self._runtime.drift.took(
            self.model.steps_per_execution,
            self._trained_variables,
            own=lambda: own_variables_of(self.model),
        )
        if self._stops.advance(Stopping.end):
            self.model.stop_training = True
        else:
            self._agree()
        return logs

    def _trained_variables(self) -> list[Any]:
        self._runtime.updates.flush("comparison of variables")
        return trained_variables_of(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if threading.get_ident() == self._thread:
            self._agree()

    def _agree(self) -> None:
        """If this worker wants to stop, and only then, find out when all do."""
        wants = self.model.stop_training or self._stops.is_preempted
        if wants and not self._stops.state.is_due:
            self.model.stop_training = self._stops.advance(Stopping.want)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        wants = self.model.stop_training or self._stops.state.is_due
        mine = bytes([bool(wants), self._stops.state.is_agreed])
        everyone = self._runtime.worker.gather("end the epoch of fit", mine)
        self.model.stop_training = any(wants for wants, _ in everyone)
        self._stops.end_if_preempted()
        # Who knows of an agreement has told before the others could come here without it.
        if any(is_agreed for _, is_agreed in everyone):
            self._stops.advance(Stopping.forget)
