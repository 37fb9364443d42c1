"""Trains with random layers and records what every replica drew.

Arguments: "alone" or "poseidon", the number of this process's replicas, and the cases, with commas
between them.
SEED is the user's seed; without it every process draws its own. PYTHON_SEED is another one for
Python's generator alone, of which Keras makes the states of generators.
"""

import functools
import hashlib
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

from poseidon_tf import PoseidonStrategy

ROWS, WIDTH = 4, 6
MASKED = 128  # Two masks of so many units are not the same by chance.


class Noise(keras.layers.Layer):
    """The user's own: draws from a generator of its own, and remembers what."""

    def __init__(self, drawn: Any, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(3)
        self.drawn = drawn

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        noise = keras.random.normal((WIDTH,), seed=self.generator)
        self.drawn.assign(tf.concat([self.drawn[1:], noise[None]], 0))
        return inputs + noise


class Masks(keras.layers.Layer):
    """Drops units, and remembers which."""

    def __init__(self, drawn: Any, **options: Any) -> None:
        super().__init__(**options)
        self.drop = keras.layers.Dropout(0.5)
        self.drawn = drawn

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            mask = self.drop(tf.ones((1, MASKED)), training=True)
            self.drawn.assign(tf.concat([self.drawn[1:], mask], 0))
            inputs = inputs * mask[:, :WIDTH]
        return inputs


class Plain(keras.layers.Layer):
    """Draws with TensorFlow, and remembers what."""

    def __init__(self, drawn: Any, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.drawn, self.seed = drawn, seed

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        noise = tf.random.normal((1, WIDTH), seed=self.seed)
        self.drawn.assign(tf.concat([self.drawn[1:], noise], 0))
        return inputs + noise


def digest(variables: Any) -> str:
    joined = b"".join(np.asarray(variable).tobytes() for variable in variables)
    return hashlib.sha256(joined).hexdigest()


def net(scope: Any, *, with_tensorflow: bool = False) -> tuple[Any, list[Any]]:
    """The model, and for each random layer the last draws: one row per step, by replica."""
    if "SEED" in os.environ:
        keras.utils.set_random_seed(int(os.environ["SEED"]))
        random.seed(int(os.environ.get("PYTHON_SEED", os.environ["SEED"])))
    with scope():
        widths = {"noise": WIDTH, "masks": MASKED} | (
            {"tensorflow": WIDTH, "with-a-seed": WIDTH} if with_tensorflow else {}
        )
        drawn = [
            tf.Variable(tf.zeros((4, width)), trainable=False, name=name)
            for name, width in widths.items()
        ]
        model = keras.Sequential(
            [
                keras.Input((WIDTH,)),
                Noise(drawn[0]),
                keras.layers.Dense(WIDTH),
                Masks(drawn[1]),
                *([Plain(drawn[2]), Plain(drawn[3], 7)] if with_tensorflow else []),
                keras.layers.Dropout(0.3),
                keras.layers.GaussianNoise(0.1),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model, drawn


def samples(num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.random.default_rng(4)
    x = numbers.normal(size=(2 * ROWS * num_workers, WIDTH)).astype("float32")
    return x, numbers.normal(size=(len(x), 1)).astype("float32")


def draws(drawn: list[Any], scope: Any) -> dict[str, Any]:
    """By layer: a list of the draws for each replica of this worker."""
    found = {}
    for variable in drawn:
        with scope():
            parts = tf.distribute.get_strategy().experimental_local_results(variable)
        found[variable.name.split(":")[0]] = [part.numpy().tolist() for part in parts]
    return found


def generators(model: Any) -> list[Any]:
    """The variables of all random generators."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights]


def states(model: Any) -> Any:
    """Of all random generators."""
    return [variable.numpy().tolist() for variable in generators(model)]


def fit(
    scope: Any, num_workers: int, *, with_tensorflow: bool = False, **options: Any
) -> dict[str, Any]:
    model, drawn = net(scope, with_tensorflow=with_tensorflow)
    if options:
        with scope():
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options)
    before = states(model)
    x, y = samples(num_workers)
    model.fit(x, y, ROWS * num_workers, epochs=1, shuffle=False, verbose=0)
    first = draws(drawn, scope)
    weights = digest([*model.weights, *model.optimizer.variables])
    model.fit(x, y, ROWS * num_workers, epochs=1, shuffle=False, verbose=0)
    return {
        "first": first,
        "second": draws(drawn, scope),
        "states": [before, states(model)],
        "weights": [weights, digest([*model.weights, *model.optimizer.variables])],
        "tested": model.evaluate(x, y, verbose=0),
    }


def restored(scope: Any, num_workers: int) -> dict[str, Any]:
    """A `fit` of a new model, to which rank 0 alone gives the states after another `fit`.

    By hand: Keras's files and TensorFlow's checkpoints hold none of a layer's generators.
    """
    before, _ = net(scope)
    x, y = samples(num_workers)
    arguments = {"batch_size": ROWS * num_workers, "shuffle": False, "verbose": 0}
    before.fit(x, y, **arguments)
    model, drawn = net(scope)
    with scope():
        rank = getattr(tf.distribute.get_strategy(), "rank", 0)
    for mine, saved in zip(generators(model), states(before), strict=True):
        if rank == 0:
            mine.assign(saved)
    model.fit(x, y, **arguments)
    return {"drawn": draws(drawn, scope), "states": states(model)}


def loop(scope: Any, num_workers: int) -> dict[str, Any]:
    model, drawn = net(scope)
    with scope():
        strategy = tf.distribute.get_strategy()
        optimizer = keras.optimizers.SGD(0.1)
    data = tf.data.Dataset.from_tensor_slices(samples(num_workers)).batch(ROWS * num_workers)

    @tf.function
    def train(batch: Any) -> None:
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True) - y)) / ROWS
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        strategy.run(step, args=batch)

    for batch in strategy.experimental_distribute_dataset(data):
        train(batch)
    return {"first": draws(drawn, scope), "weights": digest(model.trainable_weights)}


CASES: dict[str, Callable[..., Any]] = {
    "fit": fit,
    "eager": functools.partial(fit, run_eagerly=True),
    "several-steps": functools.partial(fit, steps_per_execution=2),
    "loop": loop,
    "restored": restored,
    "tensorflow": functools.partial(fit, with_tensorflow=True),
    "tensorflow-eager": functools.partial(fit, with_tensorflow=True, run_eagerly=True),
}


def main() -> None:
    num_replicas = int(sys.argv[2])
    devices = logical_cpus(num_replicas)
    if sys.argv[1] == "alone":
        scope, num_workers = tf.distribute.get_strategy().scope, 1
    else:
        strategy = PoseidonStrategy(devices=devices)
        scope, num_workers = strategy.scope, strategy.num_workers
    for case in sys.argv[3].split(","):
        result(case, CASES[case](scope, num_workers))


if __name__ == "__main__":
    main()
