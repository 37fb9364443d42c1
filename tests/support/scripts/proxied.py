"""Trains for 40 steps, listening elsewhere than TF_CONFIG says; reports what the weights are.

LISTENING is JSON: for each address of the cluster that others reach through a proxy, the address
behind it. Kernel `wide` travels as factors, everything else through the server.
"""

import hashlib
import json
import os
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf
from poseidon_tf.launch import server_main, worker_parts
from poseidon_tf.transport.server import Server

LISTENING = json.loads(os.environ["LISTENING"])


def listen(address: str, **options: Any) -> Server:
    server = Server(LISTENING.get(address, address), **options)
    server.address = address
    return server


patched: list[Any] = [worker_parts, server_main]
for module in patched:
    module.Server = listen
strategy = poseidon_tf.PoseidonStrategy(schemes={"*/wide/kernel": "sfb", "*": "ps"})
keras.utils.set_random_seed(7)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((120,)),
            keras.layers.Dense(200, activation="relu", name="first"),
            keras.layers.Dense(150, activation="relu", name="wide"),
            keras.layers.Dense(10, name="out"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
rng = np.random.default_rng(0)
x = rng.normal(size=(40 * 32, 120)).astype("float32")
y = rng.normal(size=(40 * 32, 10)).astype("float32")
history = model.fit(x, y, batch_size=32, epochs=2, verbose=0, shuffle=False)
weights = b"".join(np.asarray(weight).tobytes() for weight in model.get_weights())
result("sha256", hashlib.sha256(weights).hexdigest())
result("losses", history.history["loss"])
