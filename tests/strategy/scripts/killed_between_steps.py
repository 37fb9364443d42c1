"""Rank 0 stops the server during a step, and kills it between this step and what follows.

What this step has contributed is never summed, and the step is over before that can be noticed.
Argument: the step, of three.
"""

import json
import os
import signal
import sys
import time
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf
from report import result

import poseidon_tf

STEPS = 3


def server_process() -> psutil.Process:
    address = json.loads(os.environ["TF_CONFIG"])["cluster"]["ps"][0]
    port = int(address.rsplit(":", 1)[1])
    pids = [
        c.pid
        for c in psutil.net_connections("tcp")
        if c.laddr.port == port and c.status == "LISTEN"
    ]
    return psutil.Process(pids[0])


class Stopping(keras.layers.Layer):
    steps = 0

    def stop(self, inputs: np.ndarray) -> np.ndarray:
        if strategy.rank == 0 and self.steps == int(sys.argv[1]):
            server = server_process()
            server.send_signal(signal.SIGSTOP)
            while server.status() != psutil.STATUS_STOPPED:  # Its threads run until one has a core.
                time.sleep(0.001)
        self.steps += 1
        return inputs

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def stopping(x: tf.Tensor) -> tuple[tf.Tensor, object]:
            same = tf.numpy_function(self.stop, [x], x.dtype, stateful=False)
            same.set_shape(x.shape)
            return same, lambda upstream: upstream

        return stopping(inputs)


class Killing(keras.Sequential):
    """Keras asks it between two steps whether to stop."""

    killed = False

    @property
    def stop_training(self) -> bool:
        is_stopped = any(
            isinstance(each, Stopping) and each.steps == int(sys.argv[1]) + 1
            for each in self.layers
        )
        if strategy.rank == 0 and is_stopped and not self.killed:
            self.killed = True
            result("steps-over", int(sys.argv[1]) + 1)
            server_process().kill()
        return False

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        pass


strategy = poseidon_tf.PoseidonStrategy(schemes={"*": "ps"}, defer_updates=True)
with strategy.scope():
    model = Killing(
        [keras.Input((8,)), keras.layers.Dense(16, name="low"), Stopping(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
model.fit(np.ones((8 * STEPS, 8), "float32"), np.ones((8 * STEPS, 1), "float32"), 8, verbose=0)
result("ended", True)
