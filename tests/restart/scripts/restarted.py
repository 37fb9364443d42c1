"""Trains with a backup per epoch; in the first run of the job one process is killed in an epoch.

`restarted.py folder victim`: `victim`, "worker 1" or "ps 0" or "server beside 1" ("nobody": none),
is killed, once, in the middle of the second epoch, which the file `died` in `folder` remembers.
Each rank writes the number of every run into a file of its own there. Data come in the same order
in every epoch.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

folder, victim = Path(sys.argv[1]), sys.argv[2]
EPOCHS, STEPS, BATCH = 3, 4, 8
died = folder / "died"


def pid_of_victim() -> int | None:
    """The process to kill, if it is for this worker to do that."""
    role, _, index = victim.rpartition(" ")
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    if role == "ps" and strategy.rank == 0:
        port = int(cluster["ps"][int(index)].rpartition(":")[2])
        listening = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port
        ]
        (pid,) = set(listening)
        return int(pid)
    if role == "server beside" and strategy.rank == int(index):
        (child,) = psutil.Process().children()
        return int(child.pid)
    return os.getpid() if victim == f"worker {strategy.rank}" else None


class Kill(keras.callbacks.Callback):
    """In the middle of the second epoch, in the first run of the job."""

    epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == (1, 1) and not died.exists():
            pid = pid_of_victim()
            if pid is not None:
                died.touch()
                os.kill(pid, signal.SIGKILL)


class SeedEveryEpoch(keras.callbacks.Callback):
    """Keras's weight files keep no state of random generators: it follows from the epoch here."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([7, 1000 * epoch])


keras.utils.set_random_seed(3)
strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
assert strategy._membership is not None
with (folder / f"runs-{strategy.rank}").open("a") as runs:
    runs.write(f"{strategy._membership.view.incarnation}\n")
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
    callbacks=[backup, SeedEveryEpoch(), Kill()],
)
digest = hashlib.sha256()
for variable in [*model.weights, *model.optimizer.variables]:
    digest.update(np.asarray(variable).tobytes())
result("epochs", history.epoch)
result("loss", history.history["loss"][-1])
result("digest", digest.hexdigest())
