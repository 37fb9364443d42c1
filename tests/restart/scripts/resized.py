"""Trains on data of several kinds as far as it is told to, with as many workers as there are now.

`resized.py folder until`: in each `fit` all workers stop after the batch "epoch,batch" ("end": at
the end). The rows of a table count how often each sample was trained on.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

folder, until = Path(sys.argv[1]), sys.argv[2]
EPOCHS, BATCH, ROWS, SAVE_FREQ = 2, 12, 60, 2
random = np.random.default_rng(4)
ids = np.arange(ROWS)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")


class Stopped(Exception):
    """`fit` has come as far as it was told to."""


class Stop(keras.callbacks.Callback):
    """After one batch, on all workers."""

    epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if until == f"{self.epoch},{batch}":
            raise Stopped


class Counts(keras.callbacks.Callback):
    """How often each sample has been seen at the end of each epoch: the least and the most."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        times = -BATCH * np.asarray(self.model.get_layer("times").embeddings)
        self.seen[epoch] = [round(float(each), 4) for each in (times.min(), times.max())]


class Batches(keras.utils.PyDataset):
    """Batches of one size, whatever the number of workers."""

    @property
    def num_batches(self) -> int:
        return ROWS // BATCH

    def __getitem__(self, index: int) -> Any:
        own = slice(index * BATCH, (index + 1) * BATCH)
        return {"x": x[own], "ids": ids[own]}, {"y": y[own], "seen": y[own]}


if until == "alone":  # As a script without us: with the batches of the first job.
    strategy, scaled = tf.distribute.get_strategy(), BATCH
else:  # As scripts do that give each replica a batch of its own.
    strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
    scaled = 4 * strategy.num_replicas_in_sync
samples = {"x": x, "ids": ids}, {"y": y, "seen": y}
rows = tf.data.Dataset.from_tensor_slices(samples)
DATA: dict[str, Any] = {
    "fixed": lambda: {"x": rows.shuffle(30).batch(BATCH)},
    "scaled": lambda: {"x": rows.shuffle(30).batch(scaled)},
    "arrays": lambda: {"x": samples[0], "y": samples[1], "batch_size": scaled},
    "PyDataset": lambda: {"x": Batches(), "shuffle": False},
}
for kind, data in DATA.items():
    keras.utils.set_random_seed(3)
    with strategy.scope():
        features = keras.Input((6,), name="x")
        number = keras.Input((), dtype="int64", name="ids")
        hidden = keras.layers.Dense(16, activation="relu")(features)
        table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros", name="times")
        outputs = {"y": keras.layers.Dense(1, name="y")(hidden), "seen": table(number)}
        model = keras.Model({"x": features, "ids": number}, outputs)
        losses = {"y": "mse", "seen": lambda _, seen: seen}
        model.compile(keras.optimizers.SGD(1.0), loss=losses, loss_weights={"y": 0.1, "seen": 1.0})
    backup = keras.callbacks.BackupAndRestore(str(folder / f"backup-{kind}"), save_freq=SAVE_FREQ)
    counts = Counts()
    try:
        model.fit(**data(), epochs=EPOCHS, verbose=0, callbacks=[backup, counts, Stop()])
    except Stopped:
        result(f"stopped-{kind}", int(np.asarray(model.optimizer.iterations)))
    result(f"seen-{kind}", counts.seen)
    result(f"weights-{kind}", [np.asarray(each).tolist() for each in model.trainable_weights])
