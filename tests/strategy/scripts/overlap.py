"""Blocks the bottom layer's backward pass until the server has the top layer's gradient.

Rank 0 serves in a thread of its own process, so that its backward pass can wait for what its
server has received. Arguments: "fit" or "loop", with "mixed" for mixed_float16, or "tape" for a
loop with our own tape, and "eager" for one without `tf.function`; "chained" takes away what lets
pushes leave early, "delayed" holds all of them back until the last gradient is there.
"""

import itertools
import os
import sys
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import poseidon_tf
from poseidon_tf.launch.cluster_env import read_cluster
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.exchange import GradientExchange
from poseidon_tf.strategy.tape.eager_sums import BackwardPass

PATIENCE_S = float(os.environ.get("PATIENCE_S", "30"))
config = read_cluster()
top_received = [threading.Event() for _ in range(3)]
steps = itertools.count()
# In eager mode the workers agree on a plan after the first backward pass.
late_steps = 1 if "eager" in sys.argv else 0


def on_received(rank: int, key: str, step: int) -> None:
    if rank == 0 and "top/kernel" in key:
        top_received[step].set()


if config.rank == 0:
    server = ServerProcess(config, index=0, address=config.servers[0], on_received=on_received)
    threading.Thread(target=server.serve, daemon=True).start()
if "chained" in sys.argv:
    tf_internals.run_independently = lambda operation: None
if "delayed" in sys.argv:
    sum_at_once = GradientExchange.sum

    def sum_later(self: Any, optimizer: Any, gradients: Any, variables: Any) -> Any:
        with tf.control_dependencies(gradients):
            later = [tf.identity(gradient) for gradient in gradients]
        return sum_at_once(self, optimizer, later, variables)

    GradientExchange.sum = sum_later  # type: ignore[method-assign]
    BackwardPass.final = lambda self, position, gradient: None  # type: ignore[method-assign]


def wait_received(gradient: np.ndarray) -> np.ndarray:
    step = next(steps)
    if config.rank == 0 and step >= late_steps and not top_received[step].wait(PATIENCE_S):
        raise TimeoutError("the top layer's gradient has not reached the server")
    return gradient


@tf.custom_gradient
def gate(x: tf.Tensor) -> tuple[tf.Tensor, object]:
    def backward(upstream: tf.Tensor) -> tf.Tensor:
        held = tf.numpy_function(wait_received, [upstream], upstream.dtype, stateful=False)
        held.set_shape(upstream.shape)
        return held

    return tf.identity(x), backward


class Gate(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return gate(x)


if "mixed" in sys.argv:
    keras.mixed_precision.set_dtype_policy("mixed_float16")


class GatedDense(keras.layers.Dense):
    """Its product waits, and not what TensorFlow's eager tape does before it hands out gradients.

    The tape works off its operations in the order in which they become ready: after a product
    comes the operation below it, and only then the read of the product's kernel.
    """

    def call(self, x: Any) -> Any:
        return self.activation(gate(tf.matmul(x, self.kernel)) + self.bias)


strategy = poseidon_tf.PoseidonStrategy(schemes={"*": "ps"})
with strategy.scope():
    bottom = [keras.layers.Dense(256, name="bottom"), Gate()]
    if "eager" in sys.argv:
        bottom = [GatedDense(256, activation="relu", name="bottom")]
    model = keras.Sequential(
        [
            keras.Input((32,)),
            *bottom,
            keras.layers.Dense(128, name="top"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.01)
    model.compile(optimizer, "mse")
rng = np.random.default_rng(0)
x = rng.normal(size=(24, 32)).astype("float32")
y = rng.normal(size=(24, 128)).astype("float32")
if "fit" in sys.argv:
    model.fit(x, y, batch_size=8, verbose=0)
else:
    dataset = strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    )

    tape_class = poseidon_tf.GradientTape if "tape" in sys.argv else tf.GradientTape

    def train_step(batch: Any) -> Any:
        def replica_step(features: Any, labels: Any) -> Any:
            with tape_class() as tape:
                loss = tf.reduce_mean(tf.square(model(features, training=True) - labels))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return loss

        return strategy.run(replica_step, args=batch)

    if "eager" not in sys.argv:
        train_step = tf.function(train_step)
    for batch in dataset:
        train_step(batch)
print("RESULT steps", strategy.statistics().steps, flush=True)
