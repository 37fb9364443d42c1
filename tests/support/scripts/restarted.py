"""Trains with a backup per epoch; in the first run of the job one rank kills itself in an epoch.

`restarted.py folder victim`: rank `victim` (-1: nobody) dies, once, in the middle of the second
epoch, which the file `died` in `folder` remembers. Data come in the same order in every epoch.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

folder, victim = Path(sys.argv[1]), int(sys.argv[2])
EPOCHS, STEPS, BATCH = 3, 4, 8
died = folder / "died"


class Die(keras.callbacks.Callback):
    """In the middle of the second epoch, in the first run of the job."""

    epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if strategy.rank == victim and (self.epoch, batch) == (1, 1) and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class SeedEveryEpoch(keras.callbacks.Callback):
    """Keras's weight files keep no state of random generators: it follows from the epoch here."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([7, 1000 * epoch])


keras.utils.set_random_seed(3)
strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3, seed=5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
random = np.random.default_rng(4)
x = random.normal(size=(BATCH * STEPS, 6)).astype("float32")
y = random.normal(size=(BATCH * STEPS, 1)).astype("float32")
backup = keras.callbacks.BackupAndRestore(str(folder / f"backup-{strategy.rank}"))
history = model.fit(
    x,
    y,
    batch_size=BATCH,
    epochs=EPOCHS,
    shuffle=False,
    verbose=0,
    callbacks=[backup, SeedEveryEpoch(), Die()],
)
digest = hashlib.sha256()
for variable in [*model.weights, *model.optimizer.variables]:
    digest.update(np.asarray(variable).tobytes())
result("epochs", history.epoch)
result("loss", history.history["loss"][-1])
result("digest", digest.hexdigest())
