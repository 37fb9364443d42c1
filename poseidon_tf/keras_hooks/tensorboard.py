"""How long steps take and what is sent, beside what Keras's TensorBoard callback writes of a `fit`.

By the callback's own writer, wherever that writes: at the end of each epoch, and with an
`update_freq` after so many batches as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import tensorflow as tf

from poseidon_tf.session.statistics import Statistics
from poseidon_tf.strategy import fit_internals
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.summary import step_figures


def scalars_for(runtime: Runtime, callbacks: Sequence[Any]) -> list[Any]:
    """What is to come after these callbacks: one for each TensorBoard among them."""
    boards = [each for each in callbacks if isinstance(each, keras.callbacks.TensorBoard)]
    return [_Scalars(runtime, board) for board in boards]


@final
class _Scalars(keras.callbacks.Callback):  # type: ignore[misc]
    async_safe = True  # As in `StopTogether`.

    def __init__(self, runtime: Runtime, board: Any) -> None:
        super().__init__()
        self._worker, self._board = runtime.worker, board
        self._batches = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._batches = 0
        self._at_epoch = self._at_batch = self._worker.statistics()
        self._first_step = self._at_epoch.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        every = self._board.update_freq
        if every != "epoch" and self._batches % every == 0:
            # The last step of all ends with the first gradient of the next.
            after = self._worker.statistics()
            num_ended = max(0, after.steps - self._first_step - 1)
            num_timed = min(after.steps - self._at_batch.steps, num_ended)
            self._write("poseidon_batch", self._at_batch, after, num_timed, self._batches)
            self._at_batch = after

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # What the first of the next epoch ends has lasted through all that is between the two.
        after = self._worker.statistics()
        num_timed = max(0, after.steps - self._at_epoch.steps - 1)
        self._write("poseidon", self._at_epoch, after, num_timed, epoch)
        self._at_epoch = after

    def _write(
        self, group: str, before: Statistics, after: Statistics, num_timed: int, at: int
    ) -> None:
        figures = step_figures(before, after, self._worker.session.step_times(num_timed))
        writer = fit_internals.writer_of_training(self._board)
        # With a number as `update_freq` Keras records nothing after most batches, the last too.
        with writer.as_default(), tf.summary.record_if(True):
            for name, value in figures.items():
                tf.summary.scalar(f"{group}/{name}", value, step=at)
