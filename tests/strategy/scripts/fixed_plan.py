"""Trains a net whose plan is in a file: `fixed_plan.py FILE`."""

import hashlib
import sys

import keras
import numpy as np
from report import result

import poseidon_tf

strategy = poseidon_tf.PoseidonStrategy(plan=sys.argv[1])
keras.utils.set_random_seed(3)
with strategy.scope():
    layers = [
        keras.Input((256,)),
        keras.layers.Dense(512, name="wide"),
        keras.layers.Dense(64, name="narrow"),
        keras.layers.Dense(2, name="top"),
    ]
    model = keras.Sequential(layers, name="net")
    model.compile(keras.optimizers.SGD(0.01), "mse")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 256)).astype("f"), rng.normal(size=(32, 2)).astype("f")
model.fit(x, y, batch_size=8, verbose=0)
assert strategy.plan is not None
result("plan", strategy.plan.to_json())
statistics = strategy.statistics()
result("sent", [statistics.ps.sent_bytes, statistics.sfb.sent_bytes])
result("digest", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
