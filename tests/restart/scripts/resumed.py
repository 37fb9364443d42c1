"""Trains on data of many kinds, one `fit` after the other; in each a process is killed once.

`resumed.py folder kind=moment+moment ...`: the moments are in `Kill`; none: nobody dies. The files
`died-KIND-MOMENT` in `folder` remember who has died, `done-KIND-RANK` what is done, and
`trained-KIND`, of rank 0, every batch that a run has trained on: "epoch batch".
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
import tensorflow as tf
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

folder = Path(sys.argv[1])
moments = dict(each.split("=") for each in sys.argv[2:])
EPOCHS, BATCH, ROWS, SAVE_FREQ = 3, 8, 38, 2  # Five batches, the last of which is smaller.
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")
rows = tf.data.Dataset.from_tensor_slices((x, y))


class Batches(keras.utils.PyDataset):
    """Which itself shuffles its samples, after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._random = np.random.default_rng(5)
        self._order = np.arange(ROWS)

    @property
    def num_batches(self) -> int:
        return -(-ROWS // BATCH)

    def __getitem__(self, index: int) -> Any:
        own = self._order[index * BATCH : (index + 1) * BATCH]
        return x[own], y[own]

    def on_epoch_end(self) -> None:
        self._random.shuffle(self._order)


def noisy(x: Any, y: Any) -> Any:
    return x + tf.random.normal(tf.shape(x), stddev=0.1), y


def endless() -> Any:
    while True:
        for start in range(0, ROWS - BATCH, BATCH):
            yield x[start : start + BATCH], y[start : start + BATCH]


def of_this_worker(context: Any) -> tf.data.Dataset:
    own = rows.shard(context.num_input_pipelines, context.input_pipeline_id)
    return own.shuffle(ROWS).batch(BATCH // context.num_replicas_in_sync)


def with_policy(dataset: Any, policy: Any) -> Any:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.with_options(options)


strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
OFF = tf.data.experimental.AutoShardPolicy.OFF
ARRAYS = {"x": x, "y": y, "batch_size": BATCH}
DATA: dict[str, Any] = {
    "tf.data": lambda: {"x": rows.shuffle(16).batch(BATCH).map(noisy).prefetch(2)},
    "arrays": lambda: ARRAYS,
    "PyDataset": lambda: {"x": Batches(), "shuffle": True},
    # The end is not known before it comes, and the workers have to tell each other.
    "voted": lambda: {"x": rows.shuffle(16).batch(BATCH).filter(lambda *_: True)},
    # One pass goes on over the ends of epochs, and has shuffles within.
    "repeated": lambda: {"x": rows.shuffle(16).repeat().batch(BATCH), "steps_per_epoch": 5},
    "cached": lambda: {"x": rows.shuffle(16).cache().batch(BATCH)},
    "own": lambda: {"x": with_policy(rows.shuffle(16).batch(BATCH), OFF), "steps_per_epoch": 5},
    "function": lambda: {"x": strategy.distribute_datasets_from_function(of_this_worker)},
    "several-steps": lambda: ARRAYS,
    "half": lambda: ARRAYS,
    "accumulated": lambda: ARRAYS,
    "generator": lambda: {"x": endless(), "steps_per_epoch": 5},
}


class Kill(keras.callbacks.Callback):
    """One process, at one moment, in the first run of the job that comes to it.

    Every second batch is followed by a backup, from the second of the first epoch on.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.epoch = kind, 0

    def dies(self, moment: str, victim: int) -> None:
        died = folder / f"died-{self.kind}-{moment}"
        is_due = moment in moments[self.kind].split("+") and not died.exists()
        if is_due and strategy.rank == victim:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if strategy.rank == 0:
            with (folder / f"trained-{self.kind}").open("a") as trained:
                trained.write(f"{self.epoch} {batch}\n")
        if (self.epoch, batch) == (0, 2):
            self.dies("first-epoch", 1)
        if (self.epoch, batch) == (1, 3):
            self.dies("between", 1)
        if (self.epoch, batch) == (2, 0):
            self.dies("after-epoch", 0)

    def on_test_begin(self, logs: Any = None) -> None:
        if self.epoch == 1:
            self.dies("validation", 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            self.dies("epoch-end", 1)


class KillWhileSaving(keras.Model):
    """Whose rank 0 dies when it has its weights in the backup, and Keras not yet the epoch."""

    kind, saves = "", 0

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        super().save_weights(*args, **kwargs)
        self.saves += 1
        if self.saves == 4:
            Kill(self.kind).dies("saving", 0)


for kind in moments:
    keras.utils.set_random_seed(3)
    if kind == "half":
        keras.mixed_precision.set_global_policy("mixed_float16")
    with strategy.scope():
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(16, activation="relu")(inputs)
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.Dropout(0.3, seed=5)(hidden)
        model = KillWhileSaving(inputs, keras.layers.Dense(1, dtype="float32")(hidden))
        model.kind = kind
        accumulation = 3 if kind == "accumulated" else None
        model.compile(
            keras.optimizers.Adam(0.01, gradient_accumulation_steps=accumulation),
            loss="mse",
            steps_per_execution=2 if kind == "several-steps" else 1,
        )
    keras.mixed_precision.set_global_policy("float32")
    data = DATA[kind]()
    done = folder / f"done-{kind}-{strategy.rank}"
    if not done.exists():
        place = str(folder / f"backup-{kind}")
        backup = keras.callbacks.BackupAndRestore(place, save_freq=SAVE_FREQ)
        model.fit(
            **data,
            epochs=EPOCHS,
            validation_data=(x[:8], y[:8]),
            verbose=0,
            callbacks=[backup, Kill(kind)],
        )
        digest = hashlib.sha256()
        for variable in [*model.variables, *model.optimizer.variables]:
            digest.update(np.asarray(variable).tobytes())
        following = model.fit(**DATA[kind](), epochs=1, verbose=0).epoch
        done.write_text(json.dumps([digest.hexdigest(), following]))
    digest_text, following = json.loads(done.read_text())
    result(kind, digest_text)
    result(f"following-{kind}", following)
