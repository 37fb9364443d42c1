"""Trains one step whose gradients are known bytes: `captured.py sums.npy x.npy delta.npy [ca
certificate key]`.

The gradient of one variable, which goes by the servers, is the first array; that of a kernel is
the product of the other two, which are its factors.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from namespace import go_to_host
from report import result

import poseidon_tf

go_to_host()
gradient, x, delta = (np.load(path) for path in sys.argv[1:4])
security = None
if len(sys.argv) > 4:
    ca, certificate, key = sys.argv[4:]
    security = poseidon_tf.Security(ca=ca, certificate=certificate, key=key)
strategy = poseidon_tf.PoseidonStrategy(schemes={"shift": "ps", "kernel": "sfb"}, security=security)
with strategy.scope():
    shift = keras.Variable(np.zeros_like(gradient), name="shift")
    kernel = keras.Variable(np.zeros((x.shape[1], delta.shape[1]), "f"), name="kernel")
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build([shift, kernel])


def replica_step(inputs: tf.Tensor) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(shift * gradient) + tf.reduce_sum((inputs @ kernel) * delta)
    optimizer.apply(tape.gradient(loss, [shift.value, kernel.value]), [shift, kernel])


@tf.function
def step(inputs: tf.Tensor) -> None:
    strategy.run(replica_step, args=(inputs,))


step(tf.constant(x))
result("shift", bool(np.array_equal(shift.numpy(), -2 * gradient)))
statistics = strategy.statistics()
result("exchanges", [statistics.ps.exchanges, statistics.sfb.exchanges])
result("lanes", statistics.servers.num_lanes + statistics.workers.num_lanes)
