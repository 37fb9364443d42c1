"""Trains on a batch and a partial last one, as one of several workers or in one process.

Arguments: folder for the weights; "replica" or "sample", or "reference" and the number of workers
that it stands for.

A reference is worked out by hand: the batch is cut as TensorFlow cuts it, and the gradients of the
parts are averaged, by replicas or by samples. With BatchNormalization every part has statistics
of its own; without, "sample" is plain training on the joined batch.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH = 12
RATE = 0.1
SCHEMES = {"*by_factors*/kernel": "sfb", "*by_server*": "ps"}


def last_rows(num_workers: int) -> list[int]:
    """P1 - 1, P1 + 1 and 1 rows."""
    return sorted({num_workers - 1, num_workers + 1, 1})


def samples(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    x = random.normal(size=(num_rows, 6)).astype("float32")
    return x, random.normal(size=(num_rows, 3)).astype("float32")


def net(with_statistics: bool) -> Any:
    """Kernels on both ways, one of them with a penalty, and statistics between them if asked."""
    keras.utils.set_random_seed(11)
    regularizer = keras.regularizers.L2(0.05)
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(8, activation="tanh", name="by_factors_1"),
        keras.layers.BatchNormalization(name="statistics") if with_statistics else None,
        keras.layers.Dense(8, kernel_regularizer=regularizer, name="by_server"),
        keras.layers.Dense(3, name="by_factors_2"),
    ]
    return keras.Sequential([layer for layer in layers if layer is not None])


def parts_of(array: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """A batch as TensorFlow cuts it: all parts of the same size but the last ones."""
    size = -(-len(array) // num_parts)
    return [array[at * size : (at + 1) * size] for at in range(num_parts)]


def reference(num_workers: int, num_rows: int, with_statistics: bool, way: str) -> Any:
    """Weights and history after the batches, by hand."""
    model = net(with_statistics)
    x, y = samples(BATCH + num_rows)
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    joined = way == "sample" and not with_statistics
    losses = []
    for batch in (slice(0, BATCH), slice(BATCH, None)):
        num_parts = 1 if joined else num_workers
        gradients, statistics, rows = [], [], len(x[batch])
        before = [v.numpy() for v in moving]
        for part_x, part_y in zip(
            parts_of(x[batch], num_parts), parts_of(y[batch], num_parts), strict=True
        ):
            share = len(part_x) / rows if way == "sample" else 1 / num_parts
            if len(part_x):
                with tf.GradientTape() as tape:
                    error = tf.reduce_mean(tf.square(model(part_x, training=True) - part_y))
                    loss = error + tf.add_n(model.losses)
                found = tape.gradient(loss, [v.value for v in model.trainable_variables])
                gradients.append([share * g.numpy() for g in found])
                losses.append((len(part_x), float(loss)))
            statistics.append([v.numpy() for v in moving])
            for variable, value in zip(moving, before, strict=True):
                variable.assign(value)
        for variable, values in zip(moving, zip(*statistics, strict=True), strict=True):
            variable.assign(np.mean(values, axis=0))
        for variable, parts in zip(
            model.trainable_variables, zip(*gradients, strict=True), strict=True
        ):
            variable.assign(variable.numpy() - RATE * np.sum(parts, axis=0))
    total = sum(rows for rows, _ in losses)
    return model.get_weights(), sum(rows * loss for rows, loss in losses) / total


def fit(strategy: Any, num_rows: int, with_statistics: bool) -> Any:
    with strategy.scope():
        model = net(with_statistics)
        model.compile(keras.optimizers.SGD(RATE), "mse")
    history = model.fit(*samples(BATCH + num_rows), BATCH, shuffle=False, verbose=0).history
    return model.get_weights(), history["loss"][0]


def loop(strategy: Any, num_rows: int) -> Any:
    """A custom loop whose loss, over no rows, is not a number."""
    with strategy.scope():
        model = net(with_statistics=False)
        optimizer = keras.optimizers.SGD(RATE)
    data = tf.data.Dataset.from_tensor_slices(samples(BATCH + num_rows)).batch(BATCH)

    def step(batch: Any) -> tf.Tensor:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) + tf.add_n(model.losses)
            loss /= strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    # Called by the replica, or around it: both are in use.
    inner = tf.function(step) if num_rows == 1 else step

    @tf.function
    def train(batch: Any) -> Any:
        return strategy.run(inner, args=(batch,))

    losses = [float(train(batch)) for batch in strategy.experimental_distribute_dataset(data)]
    return model.get_weights(), losses


def inputs(scope: Any) -> dict[str, Any]:
    """Histories of fits on everything that Keras makes batches of, the last ones partial."""
    x, y = samples(31)
    labels = (y[:, 0] > 0).astype("int32")
    weights = np.linspace(0.5, 2.0, len(x)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, labels)).batch(BATCH)

    def history(*data: Any, names: tuple[str, ...] = (), **arguments: Any) -> Any:
        keras.utils.set_random_seed(11)
        with scope():
            given = [keras.Input((6,), name=name) for name in names or ("x",)]
            joined = keras.layers.concatenate(given) if len(given) > 1 else given[0]
            hidden = keras.layers.Dense(8, activation="tanh", name="by_server")(joined)
            outputs = keras.layers.Dense(2, name="by_factors")(hidden)
            model = keras.Model(dict(zip(names, given, strict=True)) if names else given, outputs)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
        arguments = {"epochs": 2, "shuffle": False, "verbose": 0} | arguments
        return model.fit(*data, **arguments).history

    arrays = {"batch_size": BATCH}
    return {
        "dict": history({"a": x, "b": -x}, labels, names=("a", "b"), **arrays),
        "sample_weight": history(x, labels, sample_weight=weights, **arrays),
        "class_weight": history(x, labels, class_weight={0: 1.0, 1: 3.0}, **arrays),
        "class_weight of a dataset": history(dataset, class_weight={0: 1.0, 1: 3.0}),
        "validation_split": history(x, labels, validation_split=0.3, **arrays),
        "validation_data": history(x, labels, validation_data=(x[:13], labels[:13]), **arrays),
        "validation dataset": history(dataset, validation_data=dataset.take(2)),
        "steps": history(dataset.repeat(), steps_per_epoch=2, validation_data=dataset),
        "steps in one": history(x, labels, steps_per_epoch=2),
    }


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    found = {}
    histories = {}
    if way == "reference":
        num_workers = int(sys.argv[3])
        for way in ("replica", "sample"):
            for num_rows in last_rows(num_workers):
                for with_statistics in (False, True):
                    case = f"{num_rows} {with_statistics}"
                    found[f"{way} {case}"], histories[f"{way} {case}"] = reference(
                        num_workers, num_rows, with_statistics, way
                    )
        name = f"reference-{num_workers}"
        result("inputs", inputs(contextlib.nullcontext))
    else:
        strategy = PoseidonStrategy(schemes=SCHEMES, loss_weighting=way, rows_per_step=BATCH)
        for num_rows in last_rows(strategy.num_workers):
            for with_statistics in (False, True):
                case = f"{num_rows} {with_statistics}"
                found[f"fit {case}"], histories[case] = fit(strategy, num_rows, with_statistics)
            found[f"loop {num_rows} False"], losses = loop(strategy, num_rows)
            result(f"loop-{num_rows}", losses)
        result("inputs", inputs(strategy.scope) if way == "sample" else {})
        name = f"{way}-{strategy.num_workers}-{strategy.rank}"
        result("schemes", {v.name: str(v.scheme) for v in strategy.plan.variables})
    np.savez(
        folder / f"{name}.npz",
        **{f"{c} {i}": w for c, ws in found.items() for i, w in enumerate(ws)},
    )
    result("histories", histories)


if __name__ == "__main__":
    main()
