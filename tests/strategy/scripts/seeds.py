"""What a script's seeds give, and which ones workers may not have.

Arguments: "alone", in one process without a strategy, or "poseidon".
BEFORE is what TensorFlow is seeded with before the strategy is made.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy
from poseidon_tf.errors import ConfigError

ROWS = 24
OFF = tf.data.experimental.AutoShardPolicy.OFF


def numbers(value: Any) -> Any:
    return np.asarray(value).tolist()


def twice(dataset: tf.data.Dataset) -> list[Any]:
    """Of two iterators, one after the other."""
    return [[numbers(each) for each in dataset] for _ in range(2)]


def operations() -> dict[str, Any]:
    """What operations with seeds of their own give; each is asked twice where it has a state."""
    rows = tf.data.Dataset.range(10)
    in_function = tf.function(lambda: tf.random.normal((2,), seed=4))
    generator = tf.random.Generator.from_seed(5)
    return {
        "uniform": [numbers(tf.random.uniform((2,), seed=1)) for _ in range(2)],
        "shuffled tensor": numbers(tf.random.shuffle(tf.range(9), seed=2)),
        "dropout": numbers(tf.nn.dropout(tf.ones(9), 0.5, seed=3)),
        "function": [numbers(in_function()) for _ in range(2)],
        "generator": [numbers(generator.normal((2,))) for _ in range(2)],
        "stateless": numbers(tf.random.stateless_uniform((2,), (1, 2))),
        "shuffle once": twice(rows.shuffle(10, seed=5, reshuffle_each_iteration=False)),
        "shuffle anew": twice(rows.shuffle(10, seed=5)),
        "map": twice(rows.take(3).map(lambda _: tf.random.uniform((), seed=6))),
        "samples": twice(
            tf.data.Dataset.sample_from_datasets([rows, rows.map(lambda i: i + 10)], seed=7)
        )[0],
        "random": [int(i) for i in tf.data.Dataset.random(seed=8).take(3)],
        "keras": numbers(keras.random.uniform((2,), seed=9)),
        "initializer": numbers(keras.initializers.GlorotUniform(seed=10)((2, 2))),
    }


def open_ones() -> dict[str, Any]:
    """What operations give that have no seed."""
    in_function = tf.function(lambda: tf.random.normal((2,)))
    rows = tf.data.Dataset.range(10)
    return {
        "uniform": numbers(tf.random.uniform((2,))),
        "function": [numbers(in_function()) for _ in range(2)],
        "shuffle": twice(rows.shuffle(10)),
        "map": twice(rows.take(3).map(lambda _: tf.random.uniform(())))[0],
    }


def after_seeding(seed: Callable[[int], None]) -> dict[str, Any]:
    """What all of them give once the script has seeded TensorFlow."""
    seed(11)
    return {"operations": operations(), "open": open_ones()}


def in_replicas(strategy: Any) -> dict[str, list[Any]]:
    """Two draws of an operation with a seed in this worker's replica, eagerly and in a function."""

    def draw() -> Any:
        return tf.random.uniform((4,), seed=12)

    def one(run: Callable[[], Any]) -> Any:
        (value,) = tf.distribute.get_strategy().experimental_local_results(run())
        return numbers(value)

    run = draw if strategy is None else (lambda: strategy.run(draw))
    in_function = tf.function(run)
    return {way: [one(fn) for _ in range(2)] for way, fn in (("eager", run), ("f", in_function))}


class Recording(keras.Sequential):
    """Notes every sample that it trains on."""

    seen: list[int]

    def train_step(self, data: Any) -> Any:
        tf.numpy_function(lambda ids: self.seen.extend(map(int, ids)), [data[0][:, 0]], [])
        return super().train_step(data)


def two_fits(strategy: Any) -> list[list[int]]:
    """What this worker sees in each of two `fit` of arrays, which Keras shuffles."""
    with strategy.scope():
        model = Recording([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.arange(ROWS, dtype="float32")[:, None]
    found = []
    for _ in range(2):
        model.seen = []
        model.fit(x, x, batch_size=ROWS, verbose=0)
        found.append(model.seen)
    return found


def error_of(program: Callable[[], Any]) -> str:
    try:
        program()
    except ConfigError as error:
        return str(error)
    return ""


def distributed(strategy: Any, before: tf.data.Dataset) -> dict[str, str]:
    """What is said of datasets whose seeds differ between the workers, and of like ones."""
    rows, rank = tf.data.Dataset.range(8), strategy.rank
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = OFF

    def shared(dataset: tf.data.Dataset) -> str:
        return error_of(lambda: strategy.experimental_distribute_dataset(dataset.batch(4)))

    def by_function(dataset: tf.data.Dataset) -> str:
        return error_of(
            lambda: strategy.distribute_datasets_from_function(lambda _: dataset.batch(2))
        )

    def noisy(seed: Any) -> tf.data.Dataset:
        return rows.map(lambda i: tf.cast(i, tf.float32) + tf.random.uniform((), seed=seed))

    def nested(seed: Any) -> tf.data.Dataset:
        return rows.flat_map(lambda i: tf.data.Dataset.range(i).shuffle(9, seed=seed))

    def branched(seed: Any) -> tf.data.Dataset:
        return rows.map(
            lambda i: tf.cond(i > 1, lambda: tf.random.uniform((), seed=seed), lambda: 0.0)
        )

    other = rows.shuffle(8, seed=20 + rank)
    found = {
        "shuffle": shared(other),
        "shuffle before more": shared(other.map(lambda i: i).repeat(2).prefetch(1)),
        "map": shared(noisy(20 + rank)),
        "nested": shared(nested(20 + rank)),
        "branch": shared(branched(20 + rank)),
        "stateless": shared(
            rows.map(lambda i: tf.random.stateless_uniform((), tf.constant([1, rank])))
        ),
        "before the strategy": shared(before),
        "own data, OFF": shared(other.with_options(options)),
        "own data, function": by_function(other),
        "alike": shared(rows.shuffle(8, seed=3).map(lambda i: i)),
        "alike, open": shared(rows.shuffle(8)),
        "alike, map": shared(noisy(None)),
        "alike, nested": shared(nested(None)),
        "alike, branch": shared(branched(3)),
    }
    tf.random.set_seed(30 + rank)
    found["seeded afterwards"] = shared(rows)
    found["seeded afterwards, own data"] = shared(rows.shuffle(8).with_options(options))
    return found


def main() -> None:
    before = tf.data.Dataset.range(8).shuffle(8)
    if "BEFORE" in os.environ:
        tf.random.set_seed(int(os.environ["BEFORE"]))
    strategy = PoseidonStrategy() if sys.argv[1] == "poseidon" else None
    result("replicas", in_replicas(strategy))
    result("operations", operations())
    result("open", open_ones())
    result("fits", two_fits(strategy or tf.distribute.get_strategy()))
    if strategy is not None:
        result("distributed", distributed(strategy, before))
    result("seeded", after_seeding(tf.random.set_seed))
    result("seeded-by-keras", after_seeding(keras.utils.set_random_seed))
    if strategy is not None:
        tf.random.set_seed(None)
        strategy.shutdown()
        result("afterwards", open_ones())


if __name__ == "__main__":
    main()
