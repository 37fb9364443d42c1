"""Rank 0 withholds the top layer's sum of each step until the bottom layer has run in the next one.

It says for which steps that came to be; where it did not, the sum comes after PATIENCE_S.
Arguments: "auto" or "in-step"; steps in an execution.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.keras_hooks import why_in_step
from poseidon_tf.strategy.graph.route import GraphRoute

STEPS = 4
PATIENCE_S = float(os.environ.get("PATIENCE_S", "60"))
bottom_ran = [threading.Event() for _ in range(STEPS)]
ran_before: list[bool] = []
deliver = GraphRoute._deliver


def deliver_later(self: GraphRoute, step: int, results: list[Any], error: str) -> None:
    def wait() -> None:
        ran_before.append(bottom_ran[step + 1].wait(PATIENCE_S))
        deliver(self, step, results, error)

    if strategy.rank == 0 and "top/kernel" in self.name and step + 1 < STEPS:
        threading.Thread(target=wait).start()
    else:
        deliver(self, step, results, error)


GraphRoute._deliver = deliver_later  # type: ignore[method-assign]


class Probe(keras.layers.Layer):
    """Notes that what is below it has run."""

    steps = 0

    def note(self, inputs: np.ndarray) -> np.ndarray:
        bottom_ran[self.steps].set()
        self.steps += 1
        return inputs

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def noted(x: tf.Tensor) -> tuple[tf.Tensor, object]:
            same = tf.numpy_function(self.note, [x], x.dtype, stateful=False)
            same.set_shape(x.shape)
            return same, lambda upstream: upstream

        return noted(inputs)


why_in_step.LEAST_BYTES = 0  # The nets here are small.
strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*": "ps"},
    coalesce_bytes=0,
    defer_updates="auto" if sys.argv[1] == "auto" else False,
)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(64, name="bottom"),
            Probe(),
            keras.layers.Dense(64, name="middle"),
            keras.layers.Dense(8, name="top"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=int(sys.argv[2]))
rng = np.random.default_rng(0)
x = rng.normal(size=(8 * STEPS, 32)).astype("float32")
y = rng.normal(size=(8 * STEPS, 8)).astype("float32")
model.fit(x, y, batch_size=8, verbose=0)
result("ran-before", ran_before)
# What AutoGraph has made of functions: it reads each of them, which takes long.
generated = [
    Path(str(module.__file__)).read_text()
    for name, module in list(sys.modules.items())
    if name.startswith("__autograph_generated_file")
]
result("converted", sum("make_update" in text for text in generated))
