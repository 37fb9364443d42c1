"""Trains four small nets with two optimizers, alone or as one of several workers.

Arguments: folder for the weights; how to train: "plain", "one_device", "poseidon", or as a worker
"ps", "sfb", "auto"; optionally the nets, with commas between them: else all but the wide one; and
the optimizers: else both.
In the environment: LOCAL_REPLICAS, the number of replicas of each worker; EPOCHS, else one; and
UPDATES, "across" or "in" the step, else as the strategy chooses.
"""

import contextlib
import hashlib
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

from poseidon_tf import PoseidonStrategy

BATCH, STEPS, CLASSES = 24, 5, 4
EPOCHS = int(os.environ.get("EPOCHS", "1"))
DEFER: dict[str | None, Any] = {"across": True, "in": False, None: "auto"}
ROWS = BATCH * STEPS
# Every plain dense layer has this in its name: the layers whose gradient is one product.
SCHEMES = {"ps": {"*": "ps"}, "sfb": {"*plain*/kernel": "sfb"}, "auto": {}}
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
}


def plain(units: int, name: str, activation: str | None = "tanh") -> Any:
    return keras.layers.Dense(units, activation=activation, name=name)


def dense_net() -> Any:
    return keras.Sequential(
        [
            keras.Input((48,)),
            plain(64, "dense_plain_1"),
            plain(64, "dense_plain_2"),
            plain(CLASSES, "dense_plain_out", None),
        ],
        name="dense",
    )


def convolutional_net() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, activation="tanh", name="conv_1"),
            keras.layers.Conv2D(4, 3, activation="tanh", name="conv_2"),
            keras.layers.Flatten(name="conv_flatten"),
            plain(48, "conv_plain_1"),
            plain(CLASSES, "conv_plain_out", None),
        ],
        name="conv",
    )


def recurrent_net() -> Any:
    return keras.Sequential(
        [
            keras.Input((6, 8)),
            keras.layers.LSTM(32, name="recurrent"),
            plain(48, "lstm_plain_1"),
            plain(CLASSES, "lstm_plain_out", None),
        ],
        name="lstm",
    )


def shared_net() -> Any:
    twice = keras.layers.Dense(40, activation="tanh", name="shared_twice")
    inputs = keras.Input((40,))
    hidden = plain(40, "shared_plain_1")(twice(twice(inputs)))
    return keras.Model(inputs, plain(CLASSES, "shared_plain_out", None)(hidden), name="shared")


def wide_net() -> Any:
    """Gradients of several KV pairs, and results that are worth sharing with TensorFlow."""
    return keras.Sequential(
        [
            keras.Input((48,)),
            plain(640, "wide_1"),
            plain(640, "wide_2"),
            plain(CLASSES, "wide_out", None),
        ],
        name="wide",
    )


NETS = {
    "dense": dense_net,
    "conv": convolutional_net,
    "lstm": recurrent_net,
    "shared": shared_net,
    "wide": wide_net,
}


def train(net: str, optimizer: str, scope: Any, epochs: list[str]) -> list[np.ndarray]:
    """The weights after the steps from seeded values; and, in `epochs`, a digest after each."""

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            epochs.append(digest(self.model.get_weights()))

    keras.utils.set_random_seed(11)
    with scope():
        model = NETS[net]()
        model.compile(
            optimizer=OPTIMIZERS[optimizer](),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        if scope is contextlib.nullcontext:  # Else a step is traced twice.
            model.optimizer.build(model.trainable_variables)
    random = np.random.default_rng(5)
    x = random.normal(size=(ROWS, *model.input_shape[1:])).astype("float32")
    y = random.integers(0, CLASSES, size=ROWS)
    history = model.fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[Look()]
    )
    assert np.isfinite(history.history["loss"]).all()
    assert int(model.optimizer.iterations.numpy()) == STEPS * EPOCHS
    return [np.asarray(weight) for weight in model.get_weights()]


def digest(weights: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest()


def listening_ports() -> list[int]:
    """Ports on which this process listens."""
    ports = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as each:
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                ports.append(each.getsockname()[1])
    return ports


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    nets = sys.argv[3].split(",") if len(sys.argv) > 3 else [net for net in NETS if net != "wide"]
    optimizers = sys.argv[4].split(",") if len(sys.argv) > 4 else list(OPTIMIZERS)
    strategy: Any = None
    if way == "one_device":
        strategy = tf.distribute.OneDeviceStrategy("/device:CPU:0")
    elif way != "plain":
        devices = logical_cpus(int(os.environ.get("LOCAL_REPLICAS", "1")))
        defer = DEFER[os.environ.get("UPDATES")]
        strategy = PoseidonStrategy(
            schemes=SCHEMES.get(way, {}), devices=devices, defer_updates=defer
        )
    scope = strategy.scope if strategy else contextlib.nullcontext
    epochs: dict[str, list[str]] = {
        f"{net} {optimizer}": [] for net in nets for optimizer in optimizers
    }
    weights = {}
    for case, seen in epochs.items():
        net, optimizer = case.split()
        weights[case] = train(net, optimizer, scope, seen)
    rank = getattr(strategy, "rank", 0)
    arrays: dict[str, Any] = {
        f"{case} {at}": w for case, ws in weights.items() for at, w in enumerate(ws)
    }
    np.savez(folder / f"{way}-{rank}.npz", **arrays)
    result("digests", {case: digest(ws) for case, ws in weights.items()})
    result("epochs", epochs)
    updates = (
        strategy.statistics().updates.deferred if isinstance(strategy, PoseidonStrategy) else 0
    )
    result("deferred", updates)
    plan = getattr(strategy, "plan", None)
    result("plan", [(v.name, str(v.scheme), v.reason) for v in plan.variables] if plan else [])
    result("threads", [thread.name for thread in threading.enumerate()])
    result("ports", listening_ports())


if __name__ == "__main__":
    main()
