"""Trains with norms that clip every step. Argument: "local" to clip each worker's share.

Alone it also clips the shares of two workers by hand.
"""

import sys
from typing import Any

import clipped_shares
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
schemes: dict[str, str] = {}
random = np.random.default_rng(6)
x, y = random.normal(size=(48, 40)).astype("float32"), random.integers(0, 4, 48)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(name: str) -> Any:
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((40,)),
            keras.layers.Dense(48, activation="tanh", name=f"{name}_fc"),
            keras.layers.Dense(4, name=f"{name}_out"),
        ]
    )


for name, clip in CLIP.items():
    with strategy.scope():
        model = net(name)
        model.compile(keras.optimizers.SGD(0.5, **clip), loss)
    model.fit(x, y, batch_size=12, shuffle=False, verbose=0)
    result(name, [weight.tolist() for weight in model.get_weights()])
if strategy.num_workers == 1:
    batches = list(zip(np.split(x, 4), np.split(y, 4), strict=True))
    for name, clip in CLIP.items():
        weights = clipped_shares.train(
            net(name), keras.optimizers.SGD(0.5), loss, batches, num_workers=2, **clip
        )
        result(f"{name}-by-hand", [weight.tolist() for weight in weights])
plan = strategy.plan
result("schemes", {v.name: v.scheme.value for v in plan.variables} if plan else {})
