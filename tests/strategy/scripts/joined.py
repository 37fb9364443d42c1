"""Joins as its environment says, trains a step in a `with` statement, and does so once more.

The second time rank 1 raises within, and every worker says what has become of that. With the
argument "resolver" rank and addresses are in RESOLVER alone; with "alone" nobody joins.
"""

import hashlib
import json
import logging
import os
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

mode = sys.argv[1] if len(sys.argv) > 1 else ""
options: dict[str, Any] = {"deadlines": poseidon_tf.Deadlines(start_s=40.0), "show_plan": "none"}
if mode == "resolver":
    workers, rank = json.loads(os.environ["RESOLVER"])
    options["cluster_resolver"] = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": workers}), task_type="worker", task_id=rank
    )
if mode == "alone":
    options["alone"] = True
if "PORTS" in os.environ:
    options["ports"] = tuple(json.loads(os.environ["PORTS"]))


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


lines = Lines()
logger = logging.getLogger("poseidon_tf")
logger.addHandler(lines)
logger.setLevel(logging.INFO)


def trained(strategy: poseidon_tf.PoseidonStrategy) -> str:
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        model.compile("sgd", "mse")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(16, 6)).astype("f"), rng.normal(size=(16, 4)).astype("f")
    model.fit(x, y, batch_size=8, verbose=0)
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    return hashlib.sha256(weights).hexdigest()


begun_s = time.monotonic()
try:
    joined = poseidon_tf.PoseidonStrategy(**options)
except poseidon_tf.ConfigError:
    result("refused_s", time.monotonic() - begun_s)
    raise
with joined as strategy:
    resolver = strategy.cluster_resolver
    result("rank", strategy.rank)
    result("replicas", strategy.num_replicas_in_sync)
    result("task", [resolver.task_type, resolver.task_id])
    result("cluster", resolver.cluster_spec().as_dict())
    result("digest", trained(strategy))
result("found", [line for line in lines.lines if "workers from" in line])
if mode:
    sys.exit(0)

try:
    with poseidon_tf.PoseidonStrategy(**options) as strategy:
        if strategy.rank == 1:
            raise ArithmeticError("no more")
        trained(strategy)
except Exception as error:
    result("error", f"{type(error).__name__}: {error}")
