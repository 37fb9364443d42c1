"""Trains twice, printing and not, with a slow rank 1, and says what a strategy counts.

Then it trains until a file is there. Arguments: that file, and the port for metrics, if any.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf

SLOW_S = 0.05  # Far more than a step of this model takes.


class Slow(keras.callbacks.Callback):
    """Makes this worker's steps longer by its own work."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        time.sleep(SLOW_S)


class UntilThere(keras.callbacks.Callback):
    """Ends training once the file is there."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = Path(sys.argv[1]).exists()


strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*/big/kernel": "sfb", "*/top/kernel": "ps"},
    metrics_port=int(sys.argv[2]) if len(sys.argv) > 2 else None,
)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(256, name="big"),
            keras.layers.Dense(8, name="top"),
        ],
        name="seen",
    )
    model.compile("sgd", "mse")
x, y = np.ones((96, 32), "float32"), np.ones((96, 8), "float32")
callbacks = [Slow()] if strategy.rank == 1 else []
result("before", dataclasses.asdict(strategy.statistics()))
model.fit(x, y, batch_size=8, verbose=2, callbacks=callbacks)
found = strategy.statistics()
result("after", {**dataclasses.asdict(found), "hidden": found.hidden, "sent": found.network_bytes})
model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
callbacks.append(UntilThere())
model.fit(x, y, batch_size=8, epochs=1000, verbose=0, callbacks=callbacks)
result("rank", strategy.rank)
