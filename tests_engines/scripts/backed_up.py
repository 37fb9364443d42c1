"""Trains without end until it is asked to stop; a second run trains two more epochs.

Rank 0 writes the number of updates into `begin-RUN` when a run begins, and into `end-RUN` after
each of them, into the folder that holds FOUND; the number of workers into `workers-RUN`. The
worker of rank KILLED ends in its third epoch, in the first run.
"""

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np

import poseidon_tf

strategy = poseidon_tf.PoseidonStrategy()
folder = Path(os.environ["FOUND"]).parent
is_second = (folder / "begin-0").exists()
strategy.barrier()  # Nobody writes before all have looked.


def say(what: str) -> None:
    if strategy.rank == 0:
        updates = int(model.optimizer.iterations.numpy())
        (folder / f"{what}-{int(is_second)}").write_text(str(updates))


class Runs(keras.callbacks.Callback):
    has_begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        if not self.has_begun:
            say("begin")
            if strategy.rank == 0:
                workers = folder / f"workers-{int(is_second)}"
                workers.write_text(str(strategy.num_replicas_in_sync))
            self.has_begun = True
            self.first = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if is_second and epoch > self.first:
            self.model.stop_training = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        say("end")
        is_killed = os.environ.get("KILLED") == str(strategy.rank)
        if is_killed and not is_second and (self.epoch, batch) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
x = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")
backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
model.fit(x, x[:, :1], batch_size=16, epochs=1_000_000, verbose=0, callbacks=[backup, Runs()])
