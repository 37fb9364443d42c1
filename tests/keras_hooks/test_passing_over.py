"""The epochs that a job had done before it was started again are passed over, not read."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

from poseidon_tf.keras_hooks.progress import Progress
from poseidon_tf.keras_hooks.resuming import go_on
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.passes import Earlier

pytestmark = pytest.mark.tensorflow
NUM_BATCHES, WAIT_S = 6, 30.0


class ReadAhead(keras.utils.PyDataset):
    """Two of its threads read ahead; an epoch's data is opened when they have begun to."""

    def __init__(self) -> None:
        super().__init__(workers=2, max_queue_size=2)
        self._is_read = threading.Event()
        self._has_begun = False

    @property
    def num_batches(self) -> int:
        """Keras asks once the threads are there, before or after it tells that an epoch begins."""
        if self._has_begun and threading.current_thread() is threading.main_thread():
            assert self._is_read.wait(WAIT_S)
        return NUM_BATCHES

    def __getitem__(self, index: int) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self._is_read.set()
        return np.full((2, 1), index, "float32"), np.zeros((2, 1), "float32")

    def on_epoch_begin(self) -> None:
        self._has_begun = True

    def on_epoch_end(self) -> None:
        self._has_begun = False
        self._is_read.clear()


def test_nothing_that_was_read_ahead_in_them_comes_later() -> None:
    """The epoch in which the job goes on has each batch once, in order."""
    epochs = tf_internals.TFEpochIterator(
        x=ReadAhead(), distribute_strategy=tf.distribute.get_strategy(), shuffle=False
    )
    fit = SimpleNamespace(epochs=epochs, needs=Earlier.OPENED)
    go_on(cast(Progress, fit), epoch=3, batch=0, first_epoch=0)
    found = [float(next(iterator)[0][0, 0]) for _, *_, iterator in epochs]
    assert found == list(range(NUM_BATCHES))
