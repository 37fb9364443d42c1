"""Trains for as long as it is let: `endless.py how`, by which rank 1 may end the job itself.

`how` is "train", "raise" or "leave" (after step 3), or "finish": all workers end in order.
"""

import os
import sys

import keras
import numpy as np
import tensorflow as tf

import poseidon_tf

LAST_STEP = 3  # Counted from 0: the step after which the test, or rank 1, does something.


class Watch(keras.callbacks.Callback):
    """Says that the job trains; then does what rank 1 was told."""

    def on_train_batch_end(self, batch, logs=None):
        if batch != LAST_STEP:
            return
        print(f"\nTRAINING {os.getpid()}", flush=True)
        if how == "raise" and strategy.rank == 1:
            raise ValueError("the dataset is on fire")
        if how == "leave" and strategy.rank == 1:
            sys.exit(0)


how = sys.argv[1]
strategy = poseidon_tf.PoseidonStrategy(
    deadlines=poseidon_tf.Deadlines(start_s=60.0, step_s=60.0, leave_s=60.0)
)
with strategy.scope():
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.001), loss="mse")
data = tf.data.Dataset.from_tensor_slices((np.ones((64, 16), "f"), np.ones((64, 1), "f")))
steps = LAST_STEP + 1 if how == "finish" else 10**9
model.fit(data.repeat().batch(8), steps_per_epoch=steps, verbose=0, callbacks=[Watch()])
