"""Several replicas on one worker: `fit`, loops, BatchNormalization, reductions, predictions.

Runs without a strategy too, which is the reference. Arguments: "plain", "poseidon", or "default"
without `devices=`; how many parts this process's CPU has; the cases, with commas between them.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

import poseidon_tf

BATCH = 24


def data(rows: int = 2 * BATCH) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    x = random.normal(size=(rows, 6)).astype("float32")
    return x, random.integers(0, 3, size=(rows,))


def net(*, normalized: bool = False) -> keras.Model:
    layers: list[Any] = [keras.Input((6,)), keras.layers.Dense(16, activation="tanh")]
    if normalized:
        layers.append(keras.layers.BatchNormalization(momentum=0.5))
    return keras.Sequential([*layers, keras.layers.Dense(3)])


def momentum(rate: float, **options: Any) -> Any:
    """An optimizer that does not blow up the rounding of small gradients, as Adam does."""
    return keras.optimizers.SGD(rate, momentum=0.9, **options)


def fitted(strategy: Any, **options: Any) -> dict[str, Any]:
    """What two epochs of `fit` with validation, `evaluate` and `predict` give."""
    optimizer = options.pop("optimizer", momentum)
    normalized = options.pop("normalized", False)
    keras.utils.set_random_seed(5)
    x, y = data()
    with strategy.scope():
        model = net(normalized=normalized)
        model.compile(
            optimizer(0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **options,
        )
        if not tf.distribute.has_strategy():  # Else a step is traced twice.
            model.optimizer.build(model.trainable_variables)
    history = model.fit(
        x, y, batch_size=BATCH, epochs=2, shuffle=False, validation_data=(x, y), verbose=0
    ).history
    # Moving statistics are means over replicas here, and the first replica's under others.
    weights = [w for w in model.trainable_weights]
    return {
        "history": {name: values for name, values in history.items() if not normalized},
        "weights": [w.numpy().tolist() for w in weights],
        "moving": [w.numpy().tolist() for w in model.non_trainable_weights],
        "iterations": int(model.optimizer.iterations.numpy()),
        "predicted": model.predict(x[:20], batch_size=8, verbose=0).tolist()
        if not normalized
        else 0,
    }


def normalized_by_shares(_: Any) -> dict[str, Any]:
    """What four replicas train whose statistics are those of their own quarter of the batch."""
    keras.utils.set_random_seed(5)
    x, y = data()
    model = net(normalized=True)
    optimizer = momentum(0.05)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _epoch in range(2):
        for begin in range(0, len(x), BATCH):
            shares = []
            for start in range(begin, begin + BATCH, BATCH // 4):
                rows = slice(start, start + BATCH // 4)
                with tf.GradientTape() as tape:
                    loss = loss_of(y[rows], model(x[rows], training=True)) / 4
                shares.append(tape.gradient(loss, model.trainable_variables))
            sums = [tf.add_n(each) for each in zip(*shares, strict=True)]
            optimizer.apply(sums, model.trainable_variables)
    return {"weights": [w.numpy().tolist() for w in model.trainable_weights]}


def loop(strategy: Any) -> dict[str, Any]:
    """A custom loop with a reduction inside the step, one outside, and values per replica."""
    keras.utils.set_random_seed(6)
    x, y = data()
    with strategy.scope():
        model = net()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        counter = tf.Variable(
            0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, trainable=False
        )
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    losses = []

    @tf.function
    def train_step(batch: Any) -> Any:
        def replica_step(features: tf.Tensor, labels: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                each = keras.losses.sparse_categorical_crossentropy(
                    labels, model(features, training=True), from_logits=True
                )
                loss = tf.reduce_sum(each) / BATCH
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            counter.assign_add(1)
            return loss, tf.distribute.get_replica_context().all_reduce("SUM", loss)

        return strategy.run(replica_step, args=batch)

    for batch in strategy.experimental_distribute_dataset(dataset):
        own, summed = train_step(batch)
        total = strategy.reduce("SUM", own, axis=None)
        local = strategy.experimental_local_results(summed)
        losses.append([float(total), *(float(each) for each in set(map(float, local)))])
    return {
        "losses": losses,
        "weights": [w.numpy().tolist() for w in model.trainable_weights],
        "counter": int(counter.numpy()),
    }


def values(strategy: Any) -> dict[str, Any]:
    """What reductions of each replica's own number give, in eager mode and in a function."""
    ids = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(float(context.replica_id_in_sync_group + 1))
    )

    def own(number: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        tf.debugging.assert_equal(tf.cast(context.replica_id_in_sync_group, tf.float32) + 1, number)
        return context.all_reduce("SUM", {"a": number, "b": [number * 2]})

    @tf.function
    def in_function() -> Any:
        return strategy.run(own, args=(ids,)), strategy.reduce("MEAN", ids, axis=None)

    eager = strategy.experimental_local_results(strategy.run(own, args=(ids,))["a"])
    inside, mean = in_function()
    return {
        "replicas": strategy.num_replicas_in_sync,
        "eager": [float(each) for each in eager],
        "function": [float(e) for e in strategy.experimental_local_results(inside["b"][0])],
        "mean": float(mean),
        "sum": float(strategy.reduce("SUM", ids, axis=None)),
    }


def numbered(rows: int, *, policy: str = "DATA") -> tf.data.Dataset:
    """Batches of rows that count from 0."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy[policy]
    ids = np.arange(rows, dtype="float32")[:, None]
    return tf.data.Dataset.from_tensor_slices(ids).batch(8).with_options(options)


def predicted(strategy: Any) -> dict[str, list[float]]:
    """The ids of all rows, by how the data comes; the last batch has too few rows for all."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    kinds = {
        "array": np.arange(21, dtype="float32")[:, None],
        "dataset": numbered(21),
        "odd-batches": numbered(21).unbatch().batch(7),
        "unknown-length": numbered(21).filter(lambda ids: ids[0, 0] >= 0),
        "generator": ((ids,) for ids in numbered(21).as_numpy_iterator()),
    }
    return {
        kind: [float(row[0]) for row in model.predict(data, batch_size=8, verbose=0)]
        for kind, data in kinds.items()
    }


def read(strategy: Any) -> dict[str, Any]:
    """Each worker's own data, read by hand and in functions: every step's ids, by replica."""
    ids = tf.data.Dataset.from_tensor_slices(np.arange(32, dtype="float32")[:, None])
    options = numbered(0, policy="OFF").options()
    shuffled = ids.shuffle(32).batch(8, drop_remainder=True).with_options(options)
    unknown = numbered(29, policy="OFF").filter(lambda ids: ids[0, 0] >= 0)
    distributed = {
        "known": strategy.experimental_distribute_dataset(shuffled),
        "unknown": strategy.experimental_distribute_dataset(unknown),
        "function": strategy.distribute_datasets_from_function(lambda _: numbered(24)),
        "even-function": strategy.distribute_datasets_from_function(lambda _: ids.batch(8, True)),
        "odd-function": strategy.distribute_datasets_from_function(
            lambda _: ids.take(24).batch(8, True)
        ),
        "voted-function": strategy.distribute_datasets_from_function(
            lambda context: numbered(24 + 8 * context.input_pipeline_id)
        ),
    }

    def ids_of(batch: Any) -> Any:
        return [tf.reshape(each, [-1]) for each in strategy.experimental_local_results(batch)]

    @tf.function
    def of_dataset(data: Any) -> Any:
        read = tf.TensorArray(tf.float32, 0, True, infer_shape=False, element_shape=[None])
        for batch in data:
            for ids in ids_of(batch):
                read = read.write(read.size(), ids)
        return read.concat()

    @tf.function
    def of_iterator(iterator: Any) -> Any:
        return ids_of(next(iterator)) + ids_of(next(iterator))

    found: dict[str, Any] = {}
    for name, data in distributed.items():
        iterator = iter(data)
        found[name] = {
            "by hand": [[ids.numpy().tolist() for ids in ids_of(batch)] for batch in data],
            "in a function": of_dataset(data).numpy().tolist(),
            "two steps": [ids.numpy().tolist() for ids in of_iterator(iterator)],
        }
        del iterator  # Before its end.
    return found


def planned(strategy: Any, *, run_eagerly: bool = False) -> dict[str, Any]:
    """What two steps moved, and what the plan says of a table's rows and a kernel's factors."""
    keras.utils.set_random_seed(7)
    known = len(strategy.plan.variables) if strategy.plan else 0
    before = strategy.statistics()
    with strategy.scope():
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((4,), dtype="int32"),
                layers.Embedding(500, 16, name="words"),
                layers.Flatten(),
                layers.Dense(160, name="wide"),
                layers.Dense(3, name="last"),
            ],
            name="eager" if run_eagerly else "planned",
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly)
    ids = np.random.default_rng(8).integers(0, 500, size=(2 * BATCH, 4))
    model.fit(ids, ids[:, 0] % 3, batch_size=BATCH, shuffle=False, verbose=0)
    after = strategy.statistics()
    moved = {}
    for scheme in ("ps", "sfb", "rows"):
        new, old = getattr(after, scheme), getattr(before, scheme)
        moved[scheme] = [new.sent_bytes - old.sent_bytes, new.received_bytes - old.received_bytes]
    variables = strategy.plan.variables[known:]
    return {"moved": moved, "plan": {v.name: [str(v.scheme), v.rows] for v in variables}}


accumulating = functools.partial(momentum, gradient_accumulation_steps=2)
CASES: dict[str, Callable[..., Any]] = {
    "fit": fitted,
    "eager": functools.partial(fitted, run_eagerly=True),
    "several-steps": functools.partial(fitted, steps_per_execution=2),
    "accumulated": functools.partial(fitted, optimizer=accumulating),
    "normalized": functools.partial(fitted, normalized=True),
    "normalized-by-shares": normalized_by_shares,
    "loop": loop,
    "values": values,
    "predicted": predicted,
    "read": read,
    "planned": planned,
    "planned-eagerly": functools.partial(planned, run_eagerly=True),
}


def main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    devices = logical_cpus(count)
    if way == "plain":
        strategy: Any = tf.distribute.get_strategy()
    elif way == "default":
        strategy = poseidon_tf.PoseidonStrategy()
    else:
        strategy = poseidon_tf.PoseidonStrategy(devices=devices)
    for case in sys.argv[3].split(","):
        result(case, CASES[case](strategy))


if __name__ == "__main__":
    main()
