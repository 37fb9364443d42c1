"""Trains a small net by both schemes over TLS: `secure.py address ca certificate key`.

Rank 0 is given the files as an argument, the others by the environment. After step 3 every worker
tells the test at `address` and waits for its answer.
"""

import hashlib
import json
import os
import socket
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

address, ca, certificate, key = sys.argv[1:]
security = None
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    security = poseidon_tf.Security(ca=ca, certificate=certificate, key=key)


class Announce(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 3:
            host, port = address.split(":")
            with socket.create_connection((host, int(port))) as test:
                test.recv(1)


strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*/big/kernel": "sfb", "*/top/kernel": "ps"}, security=security
)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(64, name="big"),
            keras.layers.Dense(4, name="top"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
rng = np.random.default_rng(0)
data = tf.data.Dataset.from_tensor_slices(
    (rng.normal(size=(64, 16)).astype("f"), rng.normal(size=(64, 4)).astype("f"))
)
before = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
model.fit(data.batch(8), verbose=0, callbacks=[Announce()])
result("trained", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
result("first", before)
result("statistics", [strategy.statistics().sfb.exchanges, strategy.statistics().ps.exchanges])
