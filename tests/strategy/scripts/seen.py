"""Trains twice, printing and not, with a slow rank 1, and says what a strategy counts.

Then it trains until a file is there, and at last other models, with TensorBoard and for fewer
steps. Arguments: that file, and the port for metrics, if any.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.planner import Link, Machines
from poseidon_tf.strategy.strategy import runtime_of

SLOW_S = 0.05  # Far more than a step of this model takes.


class Slow(keras.callbacks.Callback):
    """Makes this worker's steps longer by its own work."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        time.sleep(SLOW_S)


def small(name: str) -> Any:
    """With the layers that the schemes name."""
    layers = [keras.layers.Dense(8, name=layer) for layer in ("big", "top")]
    return keras.Sequential([keras.Input((32,)), *layers], name=name)


class Pair(keras.Model):
    """Two models with two optimizers, which one step trains."""

    def __init__(self) -> None:
        super().__init__(name="pair")
        self.one, self.two = small("one"), small("two")
        self.sgd, self.adam = keras.optimizers.SGD(0.01), keras.optimizers.Adam(0.01)
        self.built = True

    def train_step(self, data: Any) -> Any:
        x, y = data
        for model, optimizer in ((self.one, self.sgd), (self.two, self.adam)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        return {"loss": loss}


def written(folder: Path) -> dict[str, list[list[float]]]:
    """What is in the event files of a folder: by tag, steps and values."""
    found: dict[str, list[list[float]]] = {}
    for file in folder.rglob("*tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                scalar = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append([event.step, scalar])
    return found


class UntilThere(keras.callbacks.Callback):
    """Ends training once the file is there."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = Path(sys.argv[1]).exists()


strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*/big/kernel": "sfb", "*/top/kernel": "ps"},
    metrics_port=int(sys.argv[2]) if len(sys.argv) > 2 else None,
)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(256, name="big"),
            keras.layers.Dense(8, name="top"),
        ],
        name="seen",
    )
    model.compile("sgd", "mse")
x, y = np.ones((96, 32), "float32"), np.ones((96, 8), "float32")
callbacks = [Slow()] if strategy.rank == 1 else []
result("before", dataclasses.asdict(strategy.statistics()))
model.fit(x, y, batch_size=8, verbose=2, callbacks=callbacks)
found = strategy.statistics()
result("after", {**dataclasses.asdict(found), "hidden": found.hidden, "sent": found.network_bytes})
model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
callbacks.append(UntilThere())
model.fit(x, y, batch_size=8, epochs=1000, verbose=0, callbacks=callbacks)
result("told", dataclasses.asdict(strategy.statistics())["told_by_servers"])
with strategy.scope():
    other = small("other")
    other.compile("sgd", "mse")
    pair = Pair()
    pair.compile()
runtime = runtime_of(strategy)
assert runtime is not None
for last, freq in ((other, "epoch"), (pair, 4)):
    steps = strategy.statistics().steps
    folder = Path(f"{sys.argv[1]}-{last.name}-{strategy.rank}")
    board = keras.callbacks.TensorBoard(folder, update_freq=freq, write_graph=False)
    last.fit(x, y, batch_size=16, verbose=2, callbacks=[*callbacks[:-1], board])
    runtime.machines = Machines(link=Link(bits_per_s=1e9))  # For the last one.
    result(last.name, strategy.statistics().steps - steps)
    result(f"{last.name}-scalars", written(folder))
result("rank", strategy.rank)
