"""Trains with something wrong: `bad_arguments.py what`; says what `fit` raised.

`what` is "impossible" or "unmatched" (schemes), "schemes", "dtype" or "wire_dtype" (other ones on
rank 1), or "jit", which is mended afterwards.
"""

import json
import os
import sys
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf

what = sys.argv[1]
rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
schemes = {
    "impossible": {"*/norm/gamma": "sfb"},
    "unmatched": {"*/fc9/kernel": "ps"},
    "schemes": {"*/fc1/kernel": "ps"} if rank == 1 else {},
}.get(what)
dtype = "float64" if what == "dtype" and rank == 1 else "float32"
strategy = poseidon_tf.PoseidonStrategy(
    schemes=schemes,
    wire_dtype="bfloat16" if what == "wire_dtype" and rank == 1 else None,
    deadlines=poseidon_tf.Deadlines(start_s=60.0, step_s=60.0, leave_s=60.0),
)
x, y = np.ones((16, 32), dtype), np.ones((16, 1), dtype)


def train(*, jit_compile: Any) -> None:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((32,), dtype=dtype),
                keras.layers.Dense(16, name="fc1", dtype=dtype),
                keras.layers.LayerNormalization(name="norm", dtype=dtype),
                keras.layers.Dense(1, name="fc2", dtype=dtype),
            ]
        )
        model.compile("sgd", "mse", jit_compile=jit_compile)
    try:
        model.fit(x, y, batch_size=8, verbose=0)
    except poseidon_tf.PoseidonError as error:
        result("error", f"{type(error).__name__}: {error}")
        raise


try:
    train(jit_compile=what == "jit")
except poseidon_tf.ConfigError:
    if what != "jit":
        raise
    train(jit_compile=False)
    result("steps", strategy.statistics().steps)
