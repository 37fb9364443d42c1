"""Trains for as long as it is let: `endless.py address how`.

After step 3 every worker tells the test at `address` and waits for its answer. Then rank 1 does
what `how` says: "train" on, "raise", or "leave"; with "finish" all workers end in order.
"""

import socket
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

LAST_STEP = 3  # Counted from 0.
address, how = sys.argv[1:]


class Announce(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch != LAST_STEP:
            return
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as test:
            test.recv(1)
        if how == "raise" and strategy.rank == 1:
            raise ValueError("the disk is full")
        if how == "leave" and strategy.rank == 1:
            sys.exit(0)


strategy = poseidon_tf.PoseidonStrategy(
    deadlines=poseidon_tf.Deadlines(start_s=60.0, step_s=60.0, leave_s=60.0)
)
with strategy.scope():
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.001), loss="mse")
data = tf.data.Dataset.from_tensor_slices((np.ones((64, 16), "f"), np.ones((64, 1), "f")))
steps = LAST_STEP + 1 if how == "finish" else 10**9
try:
    model.fit(data.repeat().batch(8), steps_per_epoch=steps, verbose=0, callbacks=[Announce()])
except Exception as error:
    result("error", str(error))
    raise
