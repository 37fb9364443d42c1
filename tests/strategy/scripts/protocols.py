"""Trains a net whose gradients travel in every way, and reports its bits and what was sent."""

import dataclasses
import hashlib

import keras
import numpy as np
from report import result

import poseidon_tf

keras.utils.set_random_seed(0)
strategy = poseidon_tf.PoseidonStrategy(schemes={"*/factors/kernel": "sfb", "*/sums/*": "ps"})
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            keras.layers.Embedding(5000, 64, name="rows"),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu", name="factors"),
            keras.layers.Dense(768, activation="relu", name="sums"),
            keras.layers.Dense(10, name="out"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.001), "mse")
rng = np.random.default_rng(0)
x = rng.integers(0, 5000, (5 * 32, 12))
y = rng.normal(size=(5 * 32, 10)).astype("float32")
model.fit(x, y, batch_size=32, verbose=0, shuffle=False)
assert strategy.plan is not None
result("schemes", sorted({str(variable.scheme) for variable in strategy.plan.variables}))
bits = b"".join(weight.tobytes() for weight in model.get_weights())
result("weights", hashlib.sha256(bits).hexdigest())
result("statistics", dataclasses.asdict(strategy.statistics()))
