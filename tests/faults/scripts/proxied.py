"""Trains for 40 steps, listening elsewhere than TF_CONFIG says; reports what the weights are.

LISTENING is JSON: for each address of the cluster that others reach through a proxy, the address
behind it. Where it is not empty, lanes come in through proxies of this process, which reset them
after some bytes; it reports how often. Kernel `wide` travels as factors, everything else through
the server.
"""

import hashlib
import itertools
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf
from poseidon_tf.launch import server_main, worker_parts
from poseidon_tf.transport.server import Server

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.proxies import Proxy  # noqa: E402

LISTENING = json.loads(os.environ["LISTENING"])


def listen(address: str, **options: Any) -> Server:
    server = Server(LISTENING.get(address, address), **options)
    server.address = address
    if LISTENING and server.lanes is not None:
        rng = random.Random(0)
        limits = (rng.randrange(300_000, 600_000) for _ in itertools.count())
        proxy = Proxy(f"127.0.0.1:{server.lanes.port}", limits)
        proxies.append(proxy)
        server.lanes.port = int(proxy.address.rpartition(":")[2])
    return server


proxies: list[Proxy] = []


def end() -> None:
    result("lanes_reset", sum(proxy.num_resets for proxy in proxies))
    for proxy in proxies:
        proxy.__exit__()


patched: list[Any] = [worker_parts, server_main]
for module in patched:
    module.Server = listen
try:
    strategy = poseidon_tf.PoseidonStrategy(schemes={"*/wide/kernel": "sfb", "*": "ps"})
except SystemExit:  # It was a server, and is done.
    end()
    raise
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
strategy.shutdown()
end()
