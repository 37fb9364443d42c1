"""Plans a net by time, as if devices multiplied slowly: `by_time.py TIMELINES`."""

import hashlib
import logging
import sys
from dataclasses import asdict

import keras
import numpy as np
import tensorflow as tf
from report import result
from three_kernels import three_kernels

import poseidon_tf
from poseidon_tf.launch import poseidon_strategy

logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
# Emulated: rebuilding "top" would take 0.1 s.
poseidon_strategy.flops_per_s = lambda device: 1e4  # type: ignore[attr-defined]
strategy = poseidon_tf.PoseidonStrategy(
    plan_by="time", timeline_dir=sys.argv[1], defer_updates=False
)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 256)).astype("f"), rng.normal(size=(32, 2)).astype("f")


with strategy.scope():
    model = three_kernels("net")
    model.compile(keras.optimizers.SGD(0.01), "mse")
model.fit(x, y, batch_size=8, verbose=0)
assert strategy.plan is not None
result("plan", strategy.plan.to_json())
statistics = strategy.statistics()
result("sent", [statistics.ps.sent_bytes, statistics.sfb.sent_bytes])
result("digest", hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
assert statistics.probe is not None
result("probe", [asdict(each) for each in statistics.probe.seen])
result("probe_took", statistics.probe.took_s)
with strategy.scope():
    eager = three_kernels("eager")
    eager.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
eager.fit(x, y, batch_size=8, verbose=0)
result("plans", strategy.plan.to_json())
# Nobody asks such data for its rows, but shapes have them.
data = strategy.distribute_datasets_from_function(
    lambda context: tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=True)
)
with strategy.scope():
    by_function = three_kernels("by_function")
    by_function.compile(keras.optimizers.SGD(0.01), "mse")
by_function.fit(data, steps_per_epoch=2, verbose=0)
result("plans_by_function", strategy.plan.to_json())
