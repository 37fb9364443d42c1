"""A training loop of one's own: the gradients are summed by `optimizer.apply`.

    poseidon-tf run --workers 2 --servers 2 examples/custom_loop.py
    python examples/custom_loop.py                                   # one worker, no server

The net learns to add: its input are eight numbers, its target is their sum and their product
with a fixed matrix. The data are made here, the same on every worker.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import poseidon_tf

GLOBAL_BATCH = 64
EPOCHS = 5

random = np.random.default_rng(seed=7)
x = random.normal(size=(2048, 64)).astype("float32")
y = np.tanh(x @ random.normal(size=(64, 4)).astype("float32") / 8)

strategy = poseidon_tf.PoseidonStrategy()

# Every worker gets its share of each global batch.
dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(GLOBAL_BATCH)
batches = strategy.experimental_distribute_dataset(dataset)

with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, activation="relu", name="hidden1"),
            keras.layers.Dense(256, activation="relu", name="hidden2"),
            keras.layers.Dense(4, name="out"),
        ],
        name="loop",
    )
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)


def replica_step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        errors = tf.reduce_mean(tf.square(model(inputs, training=True) - targets), axis=1)
        # Divided by the GLOBAL batch: gradients and losses are summed over the workers.
        loss = tf.reduce_sum(errors) / GLOBAL_BATCH
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)  # Sums them: no all_reduce before it.
    return loss


@tf.function
def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    local_loss = strategy.run(replica_step, args=(inputs, targets))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, local_loss, axis=None)


history = []
for epoch in range(EPOCHS):
    losses = [float(step(inputs, targets)) for inputs, targets in batches]
    history.append(sum(losses) / len(losses))
    print(f"epoch {epoch + 1}: loss {history[-1]:.4f}")

if history[-1] > history[0] / 2:
    sys.exit(f"the loss should have halved, it went from {history[0]:.4f} to {history[-1]:.4f}")
