"""Trains two epochs, and stops once at a chosen point: `faulty.py socket rank point keepalive_s`.

At the point the worker of that rank calls the test at the Unix socket, says "stopped" and waits for
a letter: "g" to go on, "r" to raise, "x" to exit with code 0. Where the point is in the middle, the
other worker says "waiting" once it cannot go on without that one. Without a fault both end with
their weights' digest.
"""

import collections
import hashlib
import os
import socket
import sys
import threading
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from moments import BEFORE_ALL, EPOCHS, SERVER_LAYER, STEP, STEPS_PER_EPOCH, WAITING_STEP
from namespace import go_to_host
from report import result

import poseidon_tf
from poseidon_tf.session.session import Route

BATCH = 8
address, rank, point, keepalive_s = sys.argv[1:]


class Stop:
    """The chosen point; only its first time counts."""

    def __init__(self) -> None:
        self.is_over = False
        self.has_gone_on = threading.Event()

    def at(self, here: str, *, on_main_thread: bool = False) -> None:
        if self.is_over or here != point or strategy.rank != int(rank):
            return
        self.is_over = True
        with socket.socket(socket.AF_UNIX) as test:
            test.connect(address)
            test.sendall(b"stopped")
            order = test.recv(1)
        self.has_gone_on.set()
        if order == b"r":
            raise ValueError("the disk is full")
        if order == b"x":
            if on_main_thread:
                sys.exit(0)
            os._exit(0)  # As a library may do it.

    def other_is_in(self, step: int) -> None:
        """The other worker has begun to push `step`; only that of the point counts."""
        if step == WAITING_STEP.get(point) and strategy.rank != int(rank):
            with socket.socket(socket.AF_UNIX) as test:
                test.connect(address)
                test.sendall(b"waiting")


def watch_session(session: Any) -> None:
    """Stop in the middle of a step: before a push that a server must add, or before a result."""
    begin, done = session.begin, session.done
    num_begun: collections.Counter[int] = collections.Counter()

    def watched_begin(route: Route, step: int) -> bool:
        is_open: bool = begin(route, step)
        if SERVER_LAYER in route.name:
            num_begun[step] += 1
            if num_begun[step] == 2:  # Both variables of the layer: one may be there already.
                stop.other_is_in(step)
                if step == STEP:
                    stop.at("mid push")
        return is_open

    def watched_done(route: Route, step: int, results: Any) -> None:
        if step == STEP:
            stop.at("mid pull")
        done(route, step, results)

    session.begin, session.done = watched_begin, watched_done


class Between(keras.callbacks.Callback):
    num_steps = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        stop.at(BEFORE_ALL, on_main_thread=True)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Data are read ahead; without its last step this worker needs its peers to the end.
        is_last = self.num_steps == EPOCHS * STEPS_PER_EPOCH - 1
        if is_last and point == "end of data" and strategy.rank == int(rank):
            assert stop.has_gone_on.wait(60.0), "the end of the data was not read ahead"

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.num_steps == STEP:
            stop.at("between steps", on_main_thread=True)
        self.num_steps += 1


def watch_data(data_ends: Any) -> None:
    """Stop where this worker has no element left in the last epoch."""
    has_step = data_ends.has_step
    num_ends = 0

    def watched(dataset: Any, iterator: Any, index: Any, has_element: Any) -> Any:
        nonlocal num_ends
        if not has_element:
            num_ends += 1
            if num_ends == EPOCHS:
                stop.at("end of data")
        return has_step(dataset, iterator, index, has_element)

    data_ends.has_step = watched


go_to_host()
stop = Stop()
deadlines = poseidon_tf.Deadlines(
    start_s=60.0, step_s=60.0, leave_s=60.0, keepalive_s=float(keepalive_s)
)
strategy = poseidon_tf.PoseidonStrategy(
    deadlines=deadlines, schemes={"*/fc1/kernel": "sfb"}, coalesce_bytes=0
)
assert strategy._membership is not None
worker = strategy._membership.worker
watch_session(worker.session)
watch_data(worker.data_ends)
keras.utils.set_random_seed(5)
layers = keras.layers
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(64, activation="relu", name="fc1"),
            layers.Dense(32, activation="relu", name="fc2"),
            layers.Dense(1, name="fc3"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss="mse")
numbers = np.random.default_rng(3)
x = numbers.standard_normal((STEPS_PER_EPOCH * BATCH, 16)).astype("float32")
y = numbers.standard_normal((STEPS_PER_EPOCH * BATCH, 1)).astype("float32")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
# On a busy machine tf.data's tuner may miss that its iterator ends, and keep the process for as
# long as it has run, up to a minute; how soon a process ends is what is measured here.
options.autotune.enabled = False
# Of unknown length: its end is found, and agreed on, by reading it.
data = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True).batch(BATCH)
try:
    model.fit(data.with_options(options), epochs=EPOCHS, verbose=0, callbacks=[Between()])
except Exception as error:
    result("failed_at_s", time.monotonic())
    result("error", str(error))
    raise
digest = hashlib.sha256()
for weight in model.get_weights() + [v.numpy() for v in model.optimizer.variables]:
    digest.update(weight.tobytes())
result("digest", digest.hexdigest())
