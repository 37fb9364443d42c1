"""Rank 1's script raises: `raising.py where show_plan`, "in a step" or "at the end" of the data.

Where it raises at the end of the data, the others come to theirs when they have heard of it.
"""

import logging
import sys
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

STEPS = 6
where, how = sys.argv[1:]
show_plan: Any = how
logged: list[str] = []


class Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(record.getMessage())
        if record.levelno >= logging.WARNING:
            print(record.getMessage(), file=sys.stderr, flush=True)


class Raise(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch != (2 if where == "in a step" else STEPS - 1):
            return
        if strategy.rank == 1:
            raise ValueError('the file "größe" is gone')
        if where == "at the end":
            assert has_failed.wait(60.0), "never heard of the failure"


log = logging.getLogger("poseidon_tf")
log.setLevel(logging.INFO)
log.addHandler(Listener())
log.propagate = False
strategy = poseidon_tf.PoseidonStrategy(show_plan=show_plan)
has_failed = threading.Event()
assert strategy._membership is not None
strategy._membership.worker.session.job_failure.on_set.append(has_failed.set)
with strategy.scope():
    layers = [keras.layers.Dense(8, name="fc1"), keras.layers.Dense(1, name="fc2")]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile("sgd", "mse")
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
options.autotune.enabled = False  # Its tuner may keep a process for up to a minute.
x, y = np.ones((STEPS * 8, 16), "f"), np.ones((STEPS * 8, 1), "f")
# Of unknown length: its end is found by reading it.
data = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True).batch(8)
try:
    model.fit(data.with_options(options), verbose=0, callbacks=[Raise()])
except Exception as error:
    result("error", f"{type(error).__name__}: {error}")
    result("logged", logged)
    raise
