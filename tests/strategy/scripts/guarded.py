"""Kinds of fit among workers that are guarded: `guarded.py drift` or `guarded.py numbers`.

With "drift" the workers' variables are compared every second step, and in the end rank 1 changes
one weight. With "numbers" they are never compared; the workers hold their interpreters for longer
than the keepalive, one after the other, and in the end rank 1's data has a NaN.
"""

import ctypes
import hashlib
import logging
import sys
import time
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf
from poseidon_tf.session.worker import Worker

BATCH, ROWS = 8, 64
KEEPALIVE_S, HOLD_S = 4.0, 9
(how,) = sys.argv[1:]
gathered: list[int] = []  # Bytes of this worker in each comparison.
warned: list[str] = []  # Of what layers have of their own.
original = Worker.gather


def gather(self: Worker, what: str, payload: bytes) -> list[bytes]:
    if what.startswith("compare variables"):
        gathered.append(len(payload))
    return original(self, what, payload)


class Warnings(logging.Handler):
    """Keeps what is said of layers."""

    def emit(self, record: logging.LogRecord) -> None:
        if "variables of their own" in record.getMessage():
            warned.append(record.getMessage())


class Counting(keras.layers.Layer):
    """Counts samples of this replica's share."""

    def build(self, shape: Any) -> None:
        options = {"initializer": "zeros", "trainable": False}
        self.own = self.add_weight(name="own", **options)
        self.joined = self.add_weight(name="joined", aggregation="sum", **options)
        self.read = keras.Variable(
            0.0, trainable=False, aggregation="sum", synchronization="on_read", name="read"
        )
        self.unused = self.add_weight(name="unused", **options)

    def call(self, inputs: Any) -> Any:
        count = keras.ops.sum(keras.ops.cast(inputs[:, 0] > 0, "float32"))
        for variable in (self.own, self.joined, self.read):
            variable.assign_add(count)
        return inputs


Worker.gather = gather  # type: ignore[method-assign]
logging.getLogger("poseidon_tf").addHandler(Warnings(logging.WARNING))
strategy = poseidon_tf.PoseidonStrategy(
    drift_check_steps=2 if how == "drift" else 0,
    check_numerics=how == "numbers",
    deadlines=poseidon_tf.Deadlines(start_s=60, step_s=60, keepalive_s=KEEPALIVE_S),
)
random = np.random.default_rng(3)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")


class At(keras.callbacks.Callback):
    """Does something on one rank at the end of one batch."""

    def __init__(self, rank: int, batch: int, action: Any) -> None:
        super().__init__()
        self.rank, self.batch, self.action = rank, batch, action

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if strategy.rank == self.rank and batch == self.batch:
            self.action(self.model)


def made(accumulated: int = 0, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(6)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5, activation="relu", name="first"),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(1, name="last"),
            ]
        )
        optimizer = keras.optimizers.Adam(0.01)
        if accumulated:
            optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulated)
        model.compile(optimizer, "mse", metrics=["mae"], **compile_arguments)
    return model


def report(name: str, model: Any) -> None:
    # What each worker has added up of its own gradients differs by right.
    common = [v for v in model.optimizer.variables if "accumulator" not in v.path]
    values = [v.numpy().tobytes() for v in [*model.weights, *common]]
    result(name, {"digest": hashlib.sha256(b"".join(values)).hexdigest(), "gathered": gathered})
    gathered.clear()


def train(name: str, *callbacks: Any, rows: int = ROWS, **compile_arguments: Any) -> None:
    model = made(**compile_arguments)
    # Of one case: to trace what validates takes as long as a fit.
    validation_data = (x[:16], y[:16]) if name == "traced" else None
    model.fit(
        x[:rows],
        y[:rows],
        BATCH,
        verbose=0,
        shuffle=False,
        validation_data=validation_data,
        callbacks=list(callbacks),
    )
    report(name, model)


def stop(model: Any) -> None:
    model.stop_training = True


def hold(model: Any) -> None:
    ctypes.PyDLL(None).sleep(HOLD_S)  # PyDLL keeps the lock, unlike CDLL.


def until_rank_0_waits(model: Any) -> None:
    """Rank 0 has contributed to the next step; its wait for this worker has begun."""
    assert strategy._membership is not None
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        for link in strategy._membership.worker._links:
            keys = link.inspect(timeout_s=10.0).keys
            if any(key.contributions[0] > key.contributions[1] for key in keys):
                return
    raise TimeoutError("rank 0 did not contribute to the next step")


def nudge(model: Any) -> None:
    kernel = model.get_layer("last").kernel
    change = np.zeros(kernel.shape, "float32")
    change[2, 0] = 1e-7
    kernel.assign_add(change)


def count(steps: int) -> None:
    """Two `fit`, then batches by hand, of a model with a layer that counts."""
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                Counting(name="counting"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(1),
            ]
        )
        model.layers[-1].trainable = False
        model.compile("adam", "mse", metrics=["mae"])
    for _ in range(2):
        model.fit(x, y, BATCH, verbose=0, shuffle=False)
    for _ in range(steps):
        model.train_on_batch(x[:BATCH], y[:BATCH])
    gathered.clear()


train("traced")
train("several-steps", steps_per_execution=3)
train("eager", run_eagerly=True)
train("one-stops", At(1, 3, stop))
train("uneven", rows=ROWS - BATCH + 1)
train("accumulating", accumulated=3)
by_hand = made()
for _ in range(5):
    by_hand.train_on_batch(x[:BATCH], y[:BATCH])
report("train_on_batch", by_hand)
strategy.check_drift(by_hand.trainable_variables)
report("asked", by_hand)
result("warned-before", warned)
count(steps=4)
result("warned", warned)
if how == "numbers":
    train("held", At(1, 1, hold), At(0, 3, hold))
try:
    if how == "drift":
        train("never", At(1, 3, nudge))
    else:
        x[BATCH + BATCH // 2] = np.nan  # In rank 1's share of the second batch.
        train("never", At(1, 0, until_rank_0_waits))
except Exception as error:
    text = str(error).replace("\\'", "'")  # TensorFlow escapes them in a graph's error.
    assert strategy._membership is not None
    failure_kind = type(strategy._membership.worker.session.failure).__name__
    result("error", {"kind": type(error).__name__, "text": text, "failure_kind": failure_kind})
    raise
