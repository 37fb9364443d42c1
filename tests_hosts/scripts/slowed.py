"""Trains three epochs by a plan by time; rank 0 waits for a line of its input after the first."""

import json
import logging
import math
import sys
from typing import Any

import keras
import numpy as np

import poseidon_tf
from poseidon_tf.launch import poseidon_strategy
from poseidon_tf.strategy.gradients import replanning

logging.basicConfig(level=logging.INFO, format="LOG %(message)s", stream=sys.stdout)
replanning.MOST_TIME = math.inf
# Emulated: to multiply the factors of "wide" takes 50 ms. Everything else is as it is.
poseidon_strategy.flops_per_s = lambda device: 2e7  # type: ignore[attr-defined]


class Tells(keras.callbacks.Callback):
    """Of each epoch: by which schemes it was, and how long the last look at the links took."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert strategy.plan is not None
        probe = strategy.statistics().probe
        assert probe is not None
        schemes = [str(each.scheme) for each in strategy.plan.variables]
        weights = [float(np.sum(each)) for each in self.model.get_weights()]
        print("EPOCH", json.dumps([schemes, probe.took_s, weights]), flush=True)
        if epoch == 0 and strategy.rank == 0:
            sys.stdin.readline()


strategy = poseidon_tf.PoseidonStrategy(plan_by="time", step_seconds=1e-3, show_plan="none")
with strategy.scope():
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((256,)),
        keras.layers.Dense(512, name="wide"),
        keras.layers.Dense(2, name="top"),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 256)).astype("f"), rng.normal(size=(32, 2)).astype("f")
model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Tells()])
