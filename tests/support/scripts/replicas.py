"""Several replicas on one worker: `fit`, loops, BatchNormalization, reductions, predictions.

Runs without a strategy and under `MirroredStrategy` too, which are the references. Arguments:
"plain", "mirrored" or "poseidon", the number of this process's replicas, and the cases, with commas
between them.
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


def fitted(strategy: Any, **options: Any) -> dict[str, Any]:
    """What two epochs of `fit` with validation, `evaluate` and `predict` give."""
    optimizer = options.pop("optimizer", keras.optimizers.Adam)
    normalized = options.pop("normalized", False)
    keras.utils.set_random_seed(5)
    x, y = data()
    with strategy.scope():
        model = net(normalized=normalized)
        model.compile(
            optimizer(0.01),
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


def accumulating(rate: float) -> Any:
    return keras.optimizers.Adam(rate, gradient_accumulation_steps=2)


CASES = {
    "fit": fitted,
    "eager": functools.partial(fitted, run_eagerly=True),
    "several-steps": functools.partial(fitted, steps_per_execution=2),
    "accumulated": functools.partial(fitted, optimizer=accumulating),
    "normalized": functools.partial(fitted, normalized=True),
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
    elif way == "mirrored":
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        strategy = poseidon_tf.PoseidonStrategy(devices=devices)
    for case in sys.argv[3].split(","):
        result(case, CASES[case](strategy))


if __name__ == "__main__":
    main()
