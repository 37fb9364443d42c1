"""Times the steps of a `fit`, with whichever Keras a worker uses."""

from __future__ import annotations

import time
from typing import Any


def timed_fit(keras: Any, model: Any, dataset: Any, *, warm_up: int, steps: int) -> list[float]:
    """Seconds from the end of one batch to that of the next, of `steps` after `warm_up`.

    The whole `fit` is never timed: ending the data pipeline takes up to seconds, at random.
    """
    ends_s = step_ends(keras, model, dataset, count=warm_up + steps)
    seconds = [after - before for before, after in zip(ends_s, ends_s[1:], strict=False)]
    return seconds[-steps:]


def step_ends(keras: Any, model: Any, dataset: Any, *, count: int) -> list[float]:
    """When each of `count` batches ended, by a clock that all processes of this machine share."""
    ends_s: list[float] = []

    class StepEnds(keras.callbacks.Callback):
        """Without a batch hook: before one of those, updates would not be left to the next step."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._step = step = self.model.train_function

            def noted(iterator: Any) -> Any:
                logs = step(iterator)
                ends_s.append(time.perf_counter())
                return logs

            self.model.train_function = noted

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.train_function = self._step

    model.fit(dataset, epochs=1, steps_per_epoch=count, callbacks=[StepEnds()], verbose=0)
    return ends_s


def clocked_steps(
    keras: Any, model: Any, dataset: Any, *, count: int, period_s: float
) -> list[float]:
    """Seconds of each of `count` batches, each begun at a multiple of `period_s` by that clock."""
    seconds: list[float] = []

    class Clocked(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            time.sleep(period_s - time.perf_counter() % period_s)
            self._begin_s = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seconds.append(time.perf_counter() - self._begin_s)

    model.fit(dataset, epochs=1, steps_per_epoch=count, callbacks=[Clocked()], verbose=0)
    return seconds
