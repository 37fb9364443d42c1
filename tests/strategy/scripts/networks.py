"""Trains networks of keras.applications and a small transformer, alone or as one of two workers.

Arguments: folder for the weights; how to train: "alone" or "poseidon"; the nets, with commas in
between. Alone each is trained once more, from the same values, as "alone-reversed", with the rows
of every share in reverse order: the same mathematics with sums in another order.

A network with BatchNormalization is not the same on a joined batch: each worker normalizes by the
statistics of its own share. So one process takes the shares one after the other with the same
weights, adds their gradients, updates once, and averages the moving statistics.

Those of keras.applications are trained in float64. With the values that they begin with, ResNet50
makes of a rounding error in float32 a difference of a hundredth in the first step's gradients, and
of the order of the gradients themselves in the third's: one process then differs from itself when
the rows of a share come in another order. In float64 it differs by less than 1e-7. VGG16, whose
features are nearly the same for all images, does so in the sums over rows that a bias gets.
"""

import contextlib
import gc
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

NUM_WORKERS, STEPS, CLASSES = 2, 3, 4
# Of batches; LayerNormalization looks at one row.
WITHOUT_NORMALIZATION = {"VGG16", "transformer"}
# Rows of one worker's batch. The last layers of a small image have few pixels: with a batch of one
# or two their normalization would divide rounding noise by a variance of nearly nothing.
SHARE = 8
SIDES = {
    "VGG16": 32,
    "ResNet50": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "InceptionV3": 75,
}
# The largest value of a pixel, where it is not 1: these scale images themselves.
LARGEST = {"MobileNetV3Small": 255.0, "EfficientNetB0": 255.0}
TOKENS, VOCABULARY, WIDTH, HEADS = 12, 40, 32, 4


def application(name: str) -> keras.Model:
    """A network of keras.applications with few classes, and without its random layers."""
    side = SIDES[name]
    build = getattr(keras.applications, name)
    model = build(
        weights=None, input_shape=(side, side, 3), classes=CLASSES, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # Drops other units on every worker, and whole branches.
    return model


class Positions(keras.layers.Layer):
    """Adds a learned vector to every position of a sequence."""

    def build(self, shape: Any) -> None:
        self.vectors = self.add_weight(shape=shape[1:], initializer="normal", name="vectors")

    def call(self, sequence: Any) -> Any:
        return sequence + self.vectors


def transformer() -> keras.Model:
    """Two blocks of attention and dense layers over embedded tokens."""
    layers = keras.layers
    tokens = keras.Input((TOKENS,), dtype="int32")
    hidden = layers.Embedding(VOCABULARY, WIDTH, name="tokens")(tokens)
    hidden = Positions(name="positions")(hidden)
    for block in range(2):
        normal = layers.LayerNormalization(name=f"norm_{block}_a")(hidden)
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{block}")
        hidden = layers.Add()([hidden, attention(normal, normal)])
        normal = layers.LayerNormalization(name=f"norm_{block}_b")(hidden)
        wide = layers.Dense(4 * WIDTH, activation="gelu", name=f"wide_{block}")(normal)
        hidden = layers.Add()([hidden, layers.Dense(WIDTH, name=f"narrow_{block}")(wide)])
    pooled = layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(tokens, layers.Dense(CLASSES, name="out")(pooled), name="transformer")


def optimizer_of(net: str) -> keras.optimizers.Optimizer:
    """Not one that divides by a gradient's size: where it should be 0 it would show the noise."""
    return keras.optimizers.SGD(1e-3, momentum=0.9, name=f"sgd_{net}")


def loss_from_logits() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def samples(net: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows for all steps of all workers, and their labels."""
    random = np.random.default_rng(5)
    num_rows = NUM_WORKERS * SHARE * STEPS
    if net == "transformer":
        x = random.integers(0, VOCABULARY, size=(num_rows, TOKENS)).astype("int32")
    else:
        # Waves and a little noise, other ones in every image. To a deep network images of noise
        # alone are all alike, and what is left between them is as small as rounding errors.
        waves = tf.image.resize(
            random.uniform(size=(num_rows, 4, 4, 3)), (SIDES[net],) * 2, "bicubic"
        )
        noise = random.uniform(size=waves.shape)
        x = LARGEST.get(net, 1.0) * (0.85 * waves.numpy() + 0.15 * noise).astype("float32")
    return x, random.integers(0, CLASSES, size=num_rows)


def build(net: str, scope: Callable[[], Any]) -> keras.Model:
    keras.utils.set_random_seed(11)
    dtype = "float32" if net == "transformer" else "float64"
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    with scope():
        model = transformer() if net == "transformer" else application(net)
        model.compile(
            optimizer_of(net), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        model.optimizer.build(model.trainable_variables)
    return model


Rows = Callable[[np.ndarray, np.ndarray], None]


def by_shares(model: keras.Model) -> Rows:
    """A function that does with all rows what two workers do, by one process: see above."""
    loss_of = loss_from_logits()
    moving = model.non_trainable_variables

    @tf.function
    def gradients_of(rows: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            # The strategy's scaling: the mean of a share, divided by the number of shares.
            loss = loss_of(labels, model(rows, training=True)) / NUM_WORKERS
        gradients: list[tf.Tensor] = tape.gradient(loss, model.trainable_variables)
        return gradients

    def train(x: np.ndarray, y: np.ndarray) -> None:
        for at in range(0, len(x), NUM_WORKERS * SHARE):
            before = [value.numpy() for value in moving]
            shares = []
            for start in range(at, at + NUM_WORKERS * SHARE, SHARE):
                for variable, value in zip(moving, before, strict=True):
                    variable.assign(value)
                gradients = gradients_of(x[start : start + SHARE], y[start : start + SHARE])
                shares.append((gradients, [value.numpy() for value in moving]))
            all_gradients, statistics = zip(*shares, strict=True)
            model.optimizer.apply(
                [tf.add_n(parts) for parts in zip(*all_gradients, strict=True)],
                model.trainable_variables,
            )
            for variable, values in zip(moving, zip(*statistics, strict=True), strict=True):
                variable.assign(np.mean(values, axis=0, dtype=values[0].dtype))

    return train


def by_fit(model: keras.Model) -> Rows:
    """A function that trains with all rows as Keras does."""

    def train(x: np.ndarray, y: np.ndarray) -> None:
        model.fit(x, y, batch_size=NUM_WORKERS * SHARE, shuffle=False, verbose=0)

    return train


def trained(net: str, way: str, strategy: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """By way, the net's values after three steps from seeded ones."""
    model = build(net, strategy.scope if strategy else contextlib.nullcontext)
    variables = [*model.weights, *model.optimizer.variables]
    first = [variable.numpy() for variable in variables]
    x, y = samples(net)
    is_by_fit = strategy is not None or net in WITHOUT_NORMALIZATION
    train = (by_fit if is_by_fit else by_shares)(model)
    in_order = np.arange(len(x))
    orders = {way: in_order}
    if strategy is None:
        orders["alone-reversed"] = in_order.reshape(-1, SHARE)[:, ::-1].reshape(-1)
    for name, order in orders.items():
        for variable, value in zip(variables, first, strict=True):
            variable.assign(value)
        train(x[order], y[order])
        assert int(model.optimizer.iterations.numpy()) == STEPS
        yield name, {variable.path: variable.numpy() for variable in variables}


def main() -> None:
    folder, way, nets = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
    strategy: Any = PoseidonStrategy() if way == "poseidon" else None
    digests, seconds = {}, {}
    for net in nets:
        started = time.monotonic()
        for name, values in trained(net, way, strategy):
            content = b"".join(value.tobytes() for value in values.values())
            digests[net] = hashlib.sha256(content).hexdigest()
            if getattr(strategy, "rank", 0) == 0:
                np.savez(folder / f"{name}-{net}.npz", **values)
        del values
        gc.collect()
        seconds[net] = round(time.monotonic() - started, 1)
    result("digests", digests)
    result("seconds", seconds)
    plan = getattr(strategy, "plan", None)
    result("schemes", {v.name: str(v.scheme) for v in plan.variables} if plan else {})


if __name__ == "__main__":
    main()
