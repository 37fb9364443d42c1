"""What steps on unequal shares give, by hand: nets and samples, how data is cut, and the formula.

A step's gradients are averaged by replicas or by samples; an empty share counts zero. With
BatchNormalization every share has statistics of its own; without, "sample" is plain training on
the joined batch.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH = 12
RATE = 0.1
NUM_WORDS = 200
Share = tuple[np.ndarray, ...]  # Features and labels.


def samples(num_rows: int, kind: str = "plain") -> Share:
    """Features, or for "words" ids that come again within a batch; and labels."""
    random = np.random.default_rng(5)
    x = random.normal(size=(num_rows, 6)).astype("float32")
    y = random.normal(size=(num_rows, 3)).astype("float32")
    return (random.integers(0, 20, size=(num_rows, 4)) if kind == "words" else x), y


def net(kind: str) -> Any:
    """Kernels on both ways, one of them with a penalty; statistics or a table of words if asked."""
    keras.utils.set_random_seed(11)
    regularizer = keras.regularizers.L2(0.05)
    if kind == "words":
        bottom = [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(NUM_WORDS, 8, name="words"),
            keras.layers.Flatten(),
        ]
    else:
        bottom = [keras.Input((6,))]
    layers = [
        *bottom,
        keras.layers.Dense(8, activation="tanh", name="by_factors_1"),
        keras.layers.BatchNormalization(name="statistics") if kind == "statistics" else None,
        keras.layers.Dense(8, kernel_regularizer=regularizer, name="by_server"),
        keras.layers.Dense(3, name="by_factors_2"),
    ]
    return keras.Sequential([layer for layer in layers if layer is not None])


def optimizer(kind: str, **options: Any) -> Any:
    """One that treats sparse gradients in its own way for a table of words."""
    if kind == "words":
        return keras.optimizers.Adam(0.01)
    return keras.optimizers.SGD(RATE, **options)


def cut(batch: Share, num_parts: int) -> list[Share]:
    """A batch as TensorFlow cuts it: all parts of the same size but the last ones."""
    size = -(-len(batch[0]) // num_parts)
    return [tuple(a[at * size : (at + 1) * size] for a in batch) for at in range(num_parts)]


def steps_of(streams: Sequence[Share], *, num_local: int) -> list[list[Share]]:
    """For each step the shares of all replicas, where every worker reads a stream of its own."""
    size = BATCH // (len(streams) * num_local)
    num_steps = -(-max(len(x) for x, _ in streams) // (size * num_local))
    return [
        [
            tuple(a[at * size : (at + 1) * size] for a in stream)
            for stream in streams
            for at in range(step * num_local, (step + 1) * num_local)
        ]
        for step in range(num_steps)
    ]


def train(
    kind: str, steps: Sequence[Sequence[Share]], way: str, *, accumulated_steps: int = 1
) -> tuple[Any, dict[str, float]]:
    """The model after `steps`, and the loss and metric of all their samples.

    Args:
      steps: for each the shares of all replicas.
      way: "replica" or "sample".
      accumulated_steps: after how many steps the mean of their gradients is applied.
    """
    model, apply_to = net(kind), optimizer(kind)
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    counted: list[tuple[int, float, float]] = []
    gradients: list[list[Any]] = []
    for step, shares in enumerate(steps):
        if way == "sample" and not moving:
            shares = [tuple(np.concatenate(parts) for parts in zip(*shares, strict=True))]
        rows = sum(len(x) for x, _ in shares)
        statistics, before = [], [v.numpy() for v in moving]
        for x, y in shares:
            weight = len(x) / rows if way == "sample" else 1 / len(shares)
            if len(x):
                with tf.GradientTape() as tape:
                    outputs = model(x, training=True)
                    loss = tf.reduce_mean(tf.square(outputs - y)) + tf.add_n(model.losses)
                found = tape.gradient(loss, [v.value for v in model.trainable_variables])
                gradients.append([_times(weight / accumulated_steps, g) for g in found])
                counted.append((len(x), float(loss), float(np.mean(np.abs(outputs - y)))))
            statistics.append([v.numpy() for v in moving])
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)
        for variable, values in zip(moving, zip(*statistics, strict=True), strict=True):
            variable.assign(np.mean(values, axis=0))
        if (step + 1) % accumulated_steps == 0:
            sums = [_sum(parts) for parts in zip(*gradients, strict=True)]
            apply_to.apply(sums, model.trainable_variables)
            gradients = []
    rows, losses, errors = np.array(counted).T
    return model, {"loss": rows @ losses / rows.sum(), "mae": rows @ errors / rows.sum()}


def scores(model: Any, streams: Sequence[Share]) -> dict[str, float]:
    """Loss and metric of all samples of all workers, each counted once."""
    x, y = (np.concatenate(parts) for parts in zip(*streams, strict=True))
    errors = np.asarray(model(x, training=False)) - y
    penalty = sum(float(loss) for loss in model.losses)
    return {"loss": float(np.mean(errors**2)) + penalty, "mae": float(np.mean(np.abs(errors)))}


def _times(weight: float, gradient: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        values = weight * gradient.values
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return weight * gradient


def _sum(parts: Sequence[Any]) -> Any:
    """Of sparse gradients: the rows of all, one after the other."""
    if isinstance(parts[0], tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([part.values for part in parts], 0),
            tf.concat([part.indices for part in parts], 0),
            parts[0].dense_shape,
        )
    return tf.add_n(list(parts))
