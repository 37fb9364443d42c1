"""Trains on unequal and empty shares, as one of several workers or by hand in one process.

Arguments: folder for the weights; "replica" or "sample", and the number of this worker's replicas;
or "reference", the number of workers that it stands for, and the number of replicas of each.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result
from shares_by_hand import BATCH, RATE, cut, net, optimizer, samples, scores, steps_of, train

from poseidon_tf import ConfigError, GradientTape, PoseidonStrategy

SCHEMES = {"*by_factors*/kernel": "sfb", "*by_server*": "ps"}
KINDS = ("plain", "statistics", "words")


def last_rows(num_replicas: int) -> list[int]:
    """R - 1, R + 1 and 1 rows."""
    return sorted({num_replicas - 1, num_replicas + 1, 1})


def batches(num_rows: int, kind: str) -> list[Any]:
    """A whole one and a last one of `num_rows` rows."""
    x, y = samples(BATCH + num_rows, kind)
    return [(x[:BATCH], y[:BATCH]), (x[BATCH:], y[BATCH:])]


# Rows of each worker's own data, of which others have less: in files, and from a function.
ROWS_OF_FILES, ROWS_OF_FUNCTION = (24, 9, 4), (15, 5, 3)


def streams(rows: tuple[int, ...], num_workers: int) -> list[Any]:
    """What each worker reads."""
    x, y = samples(sum(rows[:num_workers]))
    ends = np.cumsum(rows[:num_workers])[:-1]
    return list(zip(np.split(x, ends), np.split(y, ends), strict=True))


def files(folder: Path, num_workers: int) -> tf.data.Dataset:
    """The streams as two files for each worker, which this worker has a copy of."""
    folder.mkdir()
    for worker, (x, y) in enumerate(streams(ROWS_OF_FILES, num_workers)):
        rows = np.concatenate([x, y], axis=1)
        for at, part in enumerate(np.split(rows, [len(rows) * 2 // 3])):
            with tf.io.TFRecordWriter(str(folder / f"{at}-{worker}.tfrecord")) as writer:
                for row in part:
                    writer.write(row.tobytes())

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), [9])
        return row[:6], row[6:]

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    dataset = tf.data.TFRecordDataset(sorted(str(each) for each in folder.iterdir()))
    return dataset.map(parse).batch(BATCH).with_options(options)


def function(context: tf.distribute.InputContext) -> tf.data.Dataset:
    """This worker's stream in batches for one replica."""
    own = streams(ROWS_OF_FUNCTION, context.num_input_pipelines)[context.input_pipeline_id]
    size = context.get_per_replica_batch_size(BATCH)
    return tf.data.Dataset.from_tensor_slices(own).batch(size)


def fit_and_evaluate(strategy: Any, data: Any) -> Any:
    """On data that ends earlier on some workers."""
    with strategy.scope():
        model = net("plain")
        model.compile(optimizer("plain"), "mse", metrics=["mae"])
    history = model.fit(data, verbose=0).history
    tested = model.evaluate(data, verbose=0, return_dict=True)
    return model.get_weights(), {name: value for name, (value,) in history.items()}, tested


def fit(strategy: Any, num_rows: int, kind: str, **options: Any) -> Any:
    with strategy.scope():
        model = net(kind)
        model.compile(optimizer(kind, **options), "mse", metrics=["mae"])
    data = samples(BATCH + num_rows, kind)
    history = model.fit(*data, BATCH, shuffle=False, verbose=0).history
    return model.get_weights(), {name: value for name, (value,) in history.items()}


def loop(strategy: Any, num_rows: int, kind: str, **options: Any) -> Any:
    """A custom loop whose loss, over no rows, is not a number."""
    with strategy.scope():
        model = net(kind)
        apply_to = optimizer(kind, **options)
    data = tf.data.Dataset.from_tensor_slices(samples(BATCH + num_rows, kind)).batch(BATCH)

    def step(batch: Any) -> tf.Tensor:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) + tf.add_n(model.losses)
            loss /= strategy.num_replicas_in_sync
        apply_to.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    # Called by the replica, or around it: both are in use.
    inner = tf.function(step) if num_rows == 1 else step

    @tf.function
    def train_step(batch: Any) -> Any:
        return strategy.run(inner, args=(batch,))

    losses = [
        [float(loss) for loss in strategy.experimental_local_results(train_step(batch))]
        for batch in strategy.experimental_distribute_dataset(data)
    ]
    return model.get_weights(), losses


def eager_tape(strategy: Any) -> str:
    """How an eager step with our tape is refused."""
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])

    def step() -> None:
        with GradientTape() as tape:
            loss = tf.reduce_sum(variable)
        tape.gradient(loss, [variable])

    try:
        strategy.run(step)
    except ConfigError as refusal:
        return str(refusal)
    return "accepted"


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
            if scope is contextlib.nullcontext:  # Else a step is traced twice.
                model.optimizer.build(model.trainable_variables)
        arguments = {"epochs": 2, "shuffle": False, "verbose": 0} | arguments
        return model.fit(*data, **arguments).history

    arrays: dict[str, Any] = {"batch_size": BATCH}
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


def references(num_workers: int, num_local: int) -> tuple[Any, Any, Any]:
    """By way and case: weights, histories, and what `evaluate` finds."""
    found, histories, tested = {}, {}, {}
    num_replicas = num_workers * num_local
    for way in ("replica", "sample"):
        for num_rows in last_rows(num_replicas):
            for kind in KINDS:
                steps = [cut(batch, num_replicas) for batch in batches(num_rows, kind)]
                model, history = train(kind, steps, way)
                found[f"{way} {num_rows} {kind}"] = model.get_weights()
                histories[f"{way} {num_rows} {kind}"] = history
        for name, rows in (("file", ROWS_OF_FILES), ("function", ROWS_OF_FUNCTION)):
            read = streams(rows, num_workers)
            model, history = train("plain", steps_of(read, num_local=num_local), way)
            found[f"{way} {name}"], histories[f"{way} {name}"] = model.get_weights(), history
            tested[f"{way} {name}"] = scores(model, read)
    return found, histories, tested


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    if way == "reference":
        num_workers, num_local = map(int, sys.argv[3:])
        found, histories, tested = references(num_workers, num_local)
        name = "reference"
        result("inputs", inputs(contextlib.nullcontext))
    else:
        found, histories, tested = {}, {}, {}
        weighting: Any = way
        strategy = PoseidonStrategy(
            schemes=SCHEMES,
            loss_weighting=weighting,
            rows_per_step=BATCH,
            devices=logical_cpus(int(sys.argv[3])),
        )
        for num_rows in last_rows(strategy.num_replicas_in_sync):
            for kind in KINDS:
                case = f"{num_rows} {kind}"
                found[f"fit {case}"], histories[case] = fit(strategy, num_rows, kind)
            found[f"loop {num_rows} plain"], losses = loop(strategy, num_rows, "plain")
            result(f"loop-{num_rows}", losses)
        found["loop 1 words"], _ = loop(strategy, 1, "words")
        for name, data in (
            ("file", files(folder / f"{way}-{strategy.rank}", strategy.num_workers)),
            ("function", strategy.distribute_datasets_from_function(function)),
        ):
            found[f"fit {name}"], histories[name], tested[name] = fit_and_evaluate(strategy, data)
        result("eager-tape", eager_tape(strategy) if way == "sample" else "")
        result("inputs", inputs(strategy.scope) if way == "sample" else {})
        name = f"{way}-{strategy.rank}"
        assert strategy.plan is not None
        result("schemes", {v.name: str(v.scheme) for v in strategy.plan.variables})
    np.savez(
        folder / f"{name}.npz",
        **{f"{c} {i}": w for c, ws in found.items() for i, w in enumerate(ws)},
    )
    result("histories", histories)
    result("tested", tested)


if __name__ == "__main__":
    main()
