"""Workers that start from other values, under other names, or with another model.

Arguments: folder for rank 0's first values; what to do: "fit", "loop" or "alone". The environment
tells one worker what it does otherwise: EXTRA_MODEL=1, WIDTH=<units> or LAYERS=<number>.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH, ROWS = 12, 48


def digest(weights: Any) -> str:
    joined = b"".join(np.ascontiguousarray(weight).tobytes() for weight in weights)
    return hashlib.sha256(joined).hexdigest()


def net() -> Any:
    """Without a seed: every process draws its own values."""
    layers = int(os.environ.get("LAYERS", "2"))
    width = int(os.environ.get("WIDTH", "32"))
    return keras.Sequential(
        [keras.Input((16,))]
        + [keras.layers.Dense(width, activation="tanh") for _ in range(layers)]
        + [keras.layers.Dense(3)]
    )


def samples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    x = random.normal(size=(ROWS, 16)).astype("float32")
    return x, random.normal(size=(ROWS, 3)).astype("float32")


def train_in_loop(strategy: Any, model: Any, optimizer: Any) -> None:
    @tf.function
    def train_step(x: Any, y: Any) -> None:
        def replica_step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                errors = tf.square(model(x, training=True) - y)
                loss = tf.reduce_sum(errors) / (BATCH * 3)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        strategy.run(replica_step, args=(x, y))

    dataset = tf.data.Dataset.from_tensor_slices(samples()).batch(BATCH, drop_remainder=True)
    for x, y in strategy.experimental_distribute_dataset(dataset):
        train_step(x, y)


def main() -> None:
    first_values, way = Path(sys.argv[1]) / "first.npz", sys.argv[2]
    strategy = PoseidonStrategy()
    with strategy.scope():
        if os.environ.get("EXTRA_MODEL"):
            keras.Sequential([keras.Input((5,)), keras.layers.Dense(7), keras.layers.Dense(1)])
        model = net()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, "mse")
    if way == "alone":
        stored = np.load(first_values)
        model.set_weights([stored[name] for name in stored.files])
    elif strategy.rank == 0:
        np.savez(first_values, *model.get_weights())
    result("names", [weight.path for weight in model.weights])
    result("first", digest(model.get_weights()))
    if way == "loop":
        train_in_loop(strategy, model, optimizer)
    else:
        model.fit(*samples(), batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    result("last", digest(model.get_weights()))
    result("velocity", digest([variable.numpy() for variable in optimizer.variables]))
    result("weights", [np.asarray(weight).tolist() for weight in model.get_weights()])


if __name__ == "__main__":
    main()
