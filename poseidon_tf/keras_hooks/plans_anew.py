"""Between two epochs of a `fit` with plan_by="time": another plan where much has changed."""

from __future__ import annotations

from typing import Any, final

import keras

from poseidon_tf.keras_hooks.stopping import StopTogether
from poseidon_tf.strategy.gradients.replanning import Replanning
from poseidon_tf.strategy.runtime import Runtime


@final
class PlansAnew(keras.callbacks.Callback):  # type: ignore[misc]
    """Has the step traced again where it has to send by another plan.

    As an epoch begins, and not as one ends: what a job does last is not measured for nothing, and
    the first epoch of the next `fit` is one as well.
    """

    async_safe = True  # As `StopTogether`.

    def __init__(self, runtime: Runtime, replanning: Replanning, stop: StopTogether) -> None:
        super().__init__()
        self._updates, self._replanning, self._stop = runtime.updates, replanning, stop

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._updates.flush("look at the plan")
        if self._replanning.between_epochs(self.model.trainable_variables):
            self._stop.trace_again()
