"""Trains a net of 5 M parameters for 21 steps and reports what went over the wire in the last 20.

Arguments: the scheme to force on the dense kernels, "ps" or "sfb"; what gradients are rounded to
before they leave, such as "bfloat16", if they are. Counts at the ends of steps 1
and 21; INTERFACE, if set, names a network interface whose kernel counters are read as well.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf

SCHEME = sys.argv[1]
WIRE_DTYPE = sys.argv[2] if len(sys.argv) > 2 else None
INTERFACE = os.environ.get("INTERFACE", "")


def kernel_bytes() -> dict[str, int]:
    folder = Path(f"/sys/class/net/{INTERFACE}/statistics")
    return {way: int((folder / f"{way}_bytes").read_text()) for way in ("rx", "tx")}


class Count(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch in (0, 20):
            assert strategy._membership is not None
            worker = strategy._membership.worker
            # Nobody begins the next step before everybody has counted.
            worker.gather("step ended", b"")
            result(f"step_{batch + 1}", dataclasses.asdict(strategy.statistics()))
            if INTERFACE:
                result(f"interface_{batch + 1}", kernel_bytes())
            worker.gather("counted", b"")


strategy = poseidon_tf.PoseidonStrategy(
    schemes={"*/big?/kernel": SCHEME, "*/out/*": "ps"}, wire_dtype=WIRE_DTYPE
)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(2048, activation="relu", name="big1"),
            keras.layers.Dense(1664, activation="relu", name="big2"),
            keras.layers.Dense(10, name="out"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
rng = np.random.default_rng(0)
x = rng.normal(size=(21 * 32, 784)).astype("float32")
y = rng.normal(size=(21 * 32, 10)).astype("float32")
model.fit(x, y, batch_size=32, verbose=0, callbacks=[Count()])
assert strategy.plan is not None
result("plan", strategy.plan.to_json())
result("parameters", model.count_params())
