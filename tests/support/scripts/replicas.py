"""Several replicas on one worker: `fit`, loops, BatchNormalization, reductions, predictions.

Runs without a strategy too, which is the reference. Arguments: "plain" or "poseidon", the number of
this process's replicas, and the cases, with commas between them.
"""

import functools
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
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


accumulating = functools.partial(momentum, gradient_accumulation_steps=2)
CASES = {
    "fit": fitted,
    "eager": functools.partial(fitted, run_eagerly=True),
    "several-steps": functools.partial(fitted, steps_per_execution=2),
    "accumulated": functools.partial(fitted, optimizer=accumulating),
    "normalized": functools.partial(fitted, normalized=True),
    "normalized-by-shares": normalized_by_shares,
    "loop": loop,
    "values": values,
}


def main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    devices = [f"CPU:{index}" for index in range(count)]
    if way == "plain":
        strategy: Any = tf.distribute.get_strategy()
    else:
        strategy = poseidon_tf.PoseidonStrategy(devices=devices)
    for case in sys.argv[3].split(","):
        result(case, CASES[case](strategy))


if __name__ == "__main__":
    main()
