"""Trains as far as it is told to, with as many workers as there are now; each keeps its batch.

`worker_batches.py folder KIND+KIND until`: in the `fit` on each kind of data all workers stop after
the batch "epoch,batch" ("end": at the end). `worker_batches.py folder KIND+KIND alone
ROWS+ROWS+ROWS`: one process, with batches of so many rows in each epoch. The rows of a table count
how often each sample was trained on.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

folder, kinds, until = Path(sys.argv[1]), sys.argv[2].split("+"), sys.argv[3]
EPOCHS, BATCH, ROWS, SAVE_FREQ, RATE = 3, 12, 72, 2, 1.0
random = np.random.default_rng(4)
ids = np.arange(ROWS)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")
samples = {"x": x, "ids": ids}, {"y": y, "seen": y}


class Stopped(Exception):
    """`fit` has come as far as it was told to."""


class Watch(keras.callbacks.Callback):
    """Stops all workers after one batch; says what each epoch has been trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[float]] = {}
        self.rates: dict[int, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if until == f"{self.epoch},{batch}":
            raise Stopped

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # A sample of a batch of n rows adds rate / n, which stays what it was.
        times = -BATCH / RATE * np.asarray(self.model.get_layer("times").embeddings)
        self.seen[epoch] = [round(float(each), 4) for each in (times.min(), times.max())]
        self.rates[epoch] = round(float(np.asarray(self.model.optimizer.learning_rate)), 5)


def data(kind: str, rows: int) -> dict[str, Any]:
    if kind == "arrays":
        return {"x": samples[0], "y": samples[1], "batch_size": rows}
    return {"x": shuffled.batch(rows)}


is_alone = until == "alone"
if is_alone:
    strategy = tf.distribute.get_strategy()
else:
    strategy = PoseidonStrategy(
        on_resize="keep_worker_batch",
        loss_weighting="sample",  # Three workers have unequal shares of a batch for two.
        deadlines=Deadlines(start_s=60, step_s=60, leave_s=60),
    )
for kind in kinds:
    keras.utils.set_random_seed(3)
    with strategy.scope():
        features = keras.Input((6,), name="x")
        number = keras.Input((), dtype="int64", name="ids")
        hidden = keras.layers.Dense(16, activation="relu")(features)
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros", name="times")
        outputs = {"y": keras.layers.Dense(1, name="y")(hidden), "seen": table(number)}
        model = keras.Model({"x": features, "ids": number}, outputs)
        losses = {"y": "mse", "seen": lambda _, seen: seen}
        weights = {"y": 0.1, "seen": 1.0}
        model.compile(keras.optimizers.SGD(RATE), loss=losses, loss_weights=weights)
    watch = Watch()
    shuffled = tf.data.Dataset.from_tensor_slices(samples).shuffle(30, seed=5)
    if is_alone:
        for epoch, rows in enumerate(map(int, sys.argv[4].split("+"))):
            model.optimizer.learning_rate = RATE * rows / BATCH
            given = data(kind, rows)
            model.fit(**given, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[watch])
    else:
        backup = keras.callbacks.BackupAndRestore(
            str(folder / f"backup-{kind}"), save_freq=SAVE_FREQ
        )
        given = data(kind, 4 * strategy.num_replicas_in_sync if kind == "scaled" else BATCH)
        try:
            model.fit(**given, epochs=EPOCHS, verbose=0, callbacks=[backup, watch])
        except Stopped:
            result(f"stopped-{kind}", int(np.asarray(model.optimizer.iterations)))
    result(f"seen-{kind}", watch.seen)
    result(f"rates-{kind}", watch.rates)
    result(f"weights-{kind}", [np.asarray(each).tolist() for each in model.trainable_weights])
