"""Trains in mixed_float16; in the second of four steps one worker's gradient overflows."""

import hashlib

import keras
import numpy as np
from report import result

import poseidon_tf

keras.mixed_precision.set_global_policy("mixed_float16")
strategy = poseidon_tf.PoseidonStrategy(deadlines=poseidon_tf.Deadlines(step_s=30))
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(64, name="half"),
            keras.layers.Dense(10, dtype="float32", name="out"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
random = np.random.default_rng(0)
x, y = random.normal(size=(64, 20)).astype("float32"), random.integers(0, 10, 64)
x[17] = 1e30  # A row of rank 0's share of the second batch.
model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
weights = model.get_weights()
assert strategy.plan is not None
result("schemes", {v.name: str(v.scheme) for v in strategy.plan.variables})
result("digest", hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest())
result("finite", all(bool(np.isfinite(w).all()) for w in weights))
result("steps_applied", int(model.optimizer.inner_optimizer.iterations.numpy()))
result("scale", float(model.optimizer.dynamic_scale.numpy()))
