"""Writes with Keras's callbacks and by hand, and goes on from a backup; a directory per worker.

Arguments: the folder; "write", or "train" with a backup that is kept: "until" an epoch in which the
last worker dies, or to the end. WRITE_ON is the strategy's argument.
"""

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH, ROWS = 12, 36
write_on: Any = os.environ.get("WRITE_ON", "chief")
strategy = PoseidonStrategy(write_on=write_on)
folder = Path(sys.argv[1]) / f"rank-{strategy.rank}"
folder.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")


def net() -> Any:
    """Every process draws its own values."""
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5, activation="tanh"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def digest(variables: Any) -> str:
    joined = b"".join(np.asarray(variable).tobytes() for variable in variables)
    return hashlib.sha256(joined).hexdigest()


class Diary(keras.callbacks.Callback):
    """The user's own: it writes on every worker."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        (folder / "diary.txt").write_text(str(epoch))


class OwnCheckpoint(keras.callbacks.ModelCheckpoint):
    """Derived from a callback that writes."""


def board(name: str) -> keras.callbacks.TensorBoard:
    """Writes the graph, the scores of every epoch and of every step, and histograms of weights."""
    return keras.callbacks.TensorBoard(str(folder / name), histogram_freq=1, update_freq=1)


def write() -> None:
    model = net()
    checkpoint = keras.callbacks.ModelCheckpoint(str(folder / "best.keras"), "loss")
    callbacks = [
        checkpoint,
        OwnCheckpoint(str(folder / "{epoch}.weights.h5"), "loss", save_weights_only=True),
        [keras.callbacks.CSVLogger(str(folder / "log.csv"))],
        board("board"),
        keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
        Diary(),
    ]
    held_out = x[:BATCH], y[:BATCH]
    history = model.fit(x, y, BATCH, 2, 0, callbacks, validation_data=held_out).history
    result("history", history)
    result("weights-of-fit", digest(model.get_weights()))
    result("tested", model.evaluate(x, y, BATCH, 0, callbacks=[board("tested")]))
    result("is-same-list", len(callbacks) == 6 and callbacks[0] is checkpoint)
    result("written", sorted(each.name for each in folder.iterdir()))
    # The user's list of callbacks comes back whole.
    given = keras.callbacks.CallbackList(
        [keras.callbacks.CSVLogger(str(folder / "second.csv"))], add_history=True, model=model
    )
    before = list(given.callbacks)
    model.fit(x, y, BATCH, 1, 0, given)
    result("callback-list", [given.callbacks == before, (folder / "second.csv").exists()])
    by_hand(model)
    result("weights", digest(model.get_weights()))
    result("predicted", model.predict(x[:4], verbose=0).tolist())
    model.fit(x, y, BATCH, 1, 0)
    result("after", digest([*model.get_weights(), *model.optimizer.variables]))


def by_hand(model: Any) -> None:
    """What a script does that was written for one process: all workers save, each for itself."""
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("poseidon_tf")
    log.addHandler(handler)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    paths, counters = [], []
    for to in (folder.parent / "shared", folder / "hand"):
        to.mkdir(exist_ok=True)
        model.save(to / "hand.keras")
        model.save_weights(to / "hand.weights.h5")
        model.export(to / "exported", verbose=False)
        manager = tf.train.CheckpointManager(checkpoint, str(to), 2, checkpoint_name="managed")
        saves = {
            "write": lambda to=to: checkpoint.write(str(to / "hand")),
            "save": lambda to=to: checkpoint.save(to / "saved"),
            "manager": manager.save,
            "numbered": lambda manager=manager: manager.save(checkpoint_number=17),
        }
        for save in saves.values():
            paths.append(str(Path(save()).relative_to(to)))
            counters.append(int(checkpoint.save_counter.numpy()))
    # What was not made under the strategy is nobody's but this worker's.
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.save(folder / "plain.keras")
    tf.train.Checkpoint(own=tf.Variable(1.0)).save(folder / "plain")
    log.removeHandler(handler)
    result("by-hand", sorted(each.name for each in (folder / "hand").iterdir()))
    result("plain", sorted(each.name for each in folder.glob("plain*")))
    result("paths", paths)
    result("counters", counters)
    result("warnings", warnings)


class Dying(keras.callbacks.Callback):
    """Kills the last worker when an epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == int(sys.argv[3]) and strategy.rank == strategy.num_workers - 1:
            os._exit(9)


def train() -> None:
    keras.utils.set_random_seed(3)  # The same first values as in the run that nothing disturbs.
    model = net()
    epochs: list[int] = []
    steps: list[int] = []

    def note(epoch: int, logs: Any) -> None:
        epochs.append(epoch)
        steps.append(int(model.optimizer.iterations.numpy()))

    callbacks = [
        keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
        board("board"),
        keras.callbacks.LambdaCallback(on_epoch_begin=note),
        *([Dying()] if len(sys.argv) > 3 else []),
    ]
    model.fit(x, y, BATCH, 4, 0, callbacks, shuffle=False)
    result("epochs", epochs)
    result("steps", steps)
    result("last", digest([*model.get_weights(), *model.optimizer.variables]))
    result("written", sorted(each.name for each in folder.iterdir()))


if __name__ == "__main__":
    write() if sys.argv[2] == "write" else train()
