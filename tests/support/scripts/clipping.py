"""Trains with a norm that clips every step. Argument: "norm", "value" or "global"; "local" too."""

import sys

import keras
import numpy as np
from report import result

import poseidon_tf

CLIP = {
    "norm": {"clipnorm": 0.05},
    "value": {"clipvalue": 0.01},
    "global": {"global_clipnorm": 0.1},
}
strategy = poseidon_tf.PoseidonStrategy(clip="local" if "local" in sys.argv else "sum")
schemes = {}
for name, clip in CLIP.items():
    keras.utils.set_random_seed(4)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((40,)),
                keras.layers.Dense(48, activation="tanh", name=f"{name}_fc"),
                keras.layers.Dense(4, name=f"{name}_out"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5, **clip), loss)
    random = np.random.default_rng(6)
    x, y = random.normal(size=(48, 40)).astype("float32"), random.integers(0, 4, 48)
    model.fit(x, y, batch_size=12, shuffle=False, verbose=0)
    result(name, [weight.tolist() for weight in model.get_weights()])
plan = strategy.plan
result("schemes", {v.name: v.scheme.value for v in plan.variables} if plan else {})
