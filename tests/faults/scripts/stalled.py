"""Three workers, of which rank 1 stands still for a while: `stalled.py address`.

Every worker says to the test at `address`, line by line, what its log warns of and how it ends.
Rank 1 stands still three times: where the others' data has ended, before a comparison that all make
together, and after a step. It says so, and goes on when the test answers. Python's lock is free
meanwhile.
"""

import json
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

STALLING = 1
LAST_STEP = 2  # Of the third fit, counted from 0.


class Test(logging.Handler):
    """The connection to the test; a logging handler of this worker's warnings."""

    def __init__(self, address: str) -> None:
        super().__init__(logging.WARNING)
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)))

    def say(self, kind: str, value: str | int) -> None:
        self._socket.sendall((json.dumps([kind, value]) + "\n").encode())

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.levelname, record.getMessage())

    def stand_still(self, where: str) -> None:
        self.say("still", where)
        assert self._socket.recv(1) == b"!"


class StandStill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == LAST_STEP and strategy.rank == STALLING:
            test.stand_still("step")


(address,) = sys.argv[1:]
test = Test(address)
log = logging.getLogger("poseidon_tf")
log.addHandler(test)
log.addHandler(logging.StreamHandler())
strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*/fc1/kernel": "sfb"},
    deadlines=poseidon_tf.Deadlines(
        start_s=90.0, step_s=16.0, stall_report_s=2.0, stall_repeat_s=3.0, leave_s=60.0
    ),
)
test.say("rank", strategy.rank)
with strategy.scope():
    layers = [keras.layers.Dense(8, name="fc1"), keras.layers.Dense(1, name="fc2")]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(keras.optimizers.SGD(0.001), loss="mse")


def elements() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two batches; rank 1 has a third one, and the others have to ask for it."""
    for _ in range(2):
        yield np.ones((4, 16), "f"), np.ones((4, 1), "f")
    if strategy.rank == STALLING:
        test.stand_still("data")
        yield np.ones((4, 16), "f"), np.ones((4, 1), "f")


specs = (tf.TensorSpec((4, 16), tf.float32), tf.TensorSpec((4, 1), tf.float32))
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
endless = tf.data.Dataset.from_tensors((np.ones((4, 16), "f"), np.ones((4, 1), "f"))).repeat()
model.fit(endless.with_options(options), steps_per_epoch=1, verbose=0)  # Traces are made.
model.fit(
    tf.data.Dataset.from_generator(elements, output_signature=specs).with_options(options),
    verbose=0,
)
if strategy.rank == STALLING:
    test.stand_still("gather")
strategy.check_drift(model.trainable_variables)
try:
    model.fit(
        endless.with_options(options), steps_per_epoch=1000, verbose=0, callbacks=[StandStill()]
    )
except Exception as error:
    assert strategy._membership is not None
    failure = strategy._membership.worker.session.failure
    result(
        "error",
        {
            "kind": type(error).__name__,
            "text": str(error).replace("\\'", "'"),  # TensorFlow escapes them in a graph's error.
            "failure_kind": type(failure).__name__,
            "failure": str(failure),
        },
    )
    test.say("failed", "")
    raise
