"""Trains under `poseidon-tf run --workers MIN:MAX`, loses a worker, and gets it back.

`elastic.py folder`: the last worker is killed in the first epoch. In the second one, with those
that are left, rank 0 tells the launcher that there is room for all. The rows of a table count how
often each sample was trained on. `elastic.py folder alone`: one process, with no fault, that draws
by POSEIDON_SEED as the job does.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy
from poseidon_tf.strategy import random_seeds

folder, is_alone = Path(sys.argv[1]), sys.argv[2:] == ["alone"]
EPOCHS, BATCH, ROWS, SAVE_FREQ = 3, 12, 60, 2
WAIT_S = 30.0
random = np.random.default_rng(4)
ids = np.arange(ROWS)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")


def wait_asked(before: Any) -> None:
    """Until SIGTERM has come: what was in place before poseidon_tf is in place again."""
    deadline_s = time.monotonic() + WAIT_S
    while signal.getsignal(signal.SIGTERM) is before:
        assert time.monotonic() < deadline_s, "nobody has asked this worker to end"
        time.sleep(0.01)


class Faults(keras.callbacks.Callback):
    """Each once, as the files in `folder` remember."""

    epoch = 0

    def happens(self, what: str) -> bool:
        file = folder / what
        is_new = not file.exists()
        file.touch()
        return is_new

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        is_last = strategy.rank == strategy.num_replicas_in_sync - 1
        if (self.epoch, batch) == (0, 2) and is_last and self.happens("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.epoch, batch) == (1, 2) and strategy.rank == 0 and self.happens("room"):
            before = signal.getsignal(signal.SIGTERM)
            os.kill(os.getppid(), signal.SIGUSR1)  # The launcher.
            wait_asked(before)


class Counts(keras.callbacks.Callback):
    """How often each sample has been seen at the end of each epoch: the least and the most."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        times = -BATCH * np.asarray(self.model.get_layer("times").embeddings)
        self.seen[epoch] = [round(float(each), 4) for each in (times.min(), times.max())]


faults: list[Any] = []
if is_alone:
    strategy = tf.distribute.get_strategy()
    random_seeds.begin(int(os.environ["POSEIDON_SEED"]))
else:
    strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
    faults = [Faults()]
    result("started", strategy.num_replicas_in_sync)
    result("seed", os.environ["POSEIDON_SEED"])
samples = {"x": x, "ids": ids}, {"y": y, "seen": y}
data = tf.data.Dataset.from_tensor_slices(samples).shuffle(30).batch(BATCH)
first = keras.initializers.GlorotUniform
with strategy.scope():
    features = keras.Input((6,), name="x")
    number = keras.Input((), dtype="int64", name="ids")
    hidden = keras.layers.Dense(16, activation="relu", kernel_initializer=first(1))(features)
    table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros", name="times")
    ends = keras.layers.Dense(1, name="y", kernel_initializer=first(2))(hidden)
    model = keras.Model({"x": features, "ids": number}, {"y": ends, "seen": table(number)})
    losses = {"y": "mse", "seen": lambda _, seen: seen}
    model.compile(keras.optimizers.SGD(1.0), loss=losses, loss_weights={"y": 0.1, "seen": 1.0})
backup = keras.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=SAVE_FREQ)
counts = Counts()
model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[backup, counts, *faults])
result("seen", counts.seen)
result("weights", [np.asarray(each).tolist() for each in model.trainable_weights])
