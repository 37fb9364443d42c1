"""Trains three steps with a timeline; rank 1's clock is 5 s ahead. Argument: the directory."""

import functools
import os
import sys
import time
from typing import Any

import keras
import numpy as np

import poseidon_tf
from poseidon_tf.launch import poseidon_strategy

AHEAD_S = float(os.environ.get("AHEAD_S", "0"))
patched: Any = poseidon_strategy
patched.join = functools.partial(patched.join, clock=lambda: time.time() + AHEAD_S)
SCHEMES = {"*/big/kernel": "sfb", "*/top/kernel": "ps"}
strategy = poseidon_tf.PoseidonStrategy(timeline_dir=sys.argv[1], schemes=SCHEMES)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(256, name="big"),
            keras.layers.Dense(128, name="top"),
        ]
    )
    model.compile("sgd", "mse")
x, y = np.ones((24, 32), "float32"), np.ones((24, 128), "float32")
model.fit(x, y, batch_size=8, verbose=0)
