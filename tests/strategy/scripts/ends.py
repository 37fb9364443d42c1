"""Data that ends elsewhere on every worker: what is seen of it, and after how many steps.

Argument: a folder that all workers see.
"""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy
from poseidon_tf.errors import ConfigError

BATCH = 12
FILES = [17, 5, 26, 9]  # Rows of each file.
Policy = tf.data.experimental.AutoShardPolicy


def rows(first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, of which the first is the sample's id, and labels."""
    x = np.random.default_rng(3).normal(size=(number, 4)).astype("float32")
    x[:, 0] = np.arange(first, first + number)
    return x, (x[:, 1:2] > 0).astype("float32")


def dataset(first: int, number: int, policy: Any = Policy.DATA) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return (
        tf.data.Dataset.from_tensor_slices(rows(first, number)).batch(BATCH).with_options(options)
    )


def write_files(folder: Path) -> None:
    first = 0
    for at, number in enumerate(FILES):
        with tf.io.TFRecordWriter(str(folder / f"{at}.tfrecord")) as writer:
            for row in rows(first, number)[0]:
                writer.write(row.tobytes())
        first += number


def files(folder: Path, policy: Any) -> tf.data.Dataset:
    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), [4])
        return row, tf.cast(row[1:2] > 0, tf.float32)

    names = [str(folder / f"{at}.tfrecord") for at in range(len(FILES))]
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return tf.data.TFRecordDataset(names).map(parse).batch(BATCH).with_options(options)


class Recording(keras.Sequential):
    """Notes the id of every sample it trains on, and counts steps, empty ones too."""

    seen: list[list[int]]

    def train_step(self, data: Any) -> Any:
        x = data[0]["x"] if isinstance(data[0], dict) else data[0]
        tf.numpy_function(self._note, [x[:, 0]], [])
        return super().train_step(data)

    def _note(self, ids: Any) -> None:
        self.seen.append([int(each) for each in ids])


class Batches(keras.utils.PyDataset):
    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return rows(index * BATCH, BATCH)


def generator(number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index in range(number):
        yield rows(index * BATCH, BATCH)


class Cases:
    """Fits one model per case and reports what it saw."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    def model(self, steps_per_execution: int = 1, **compiled: Any) -> Recording:
        with self._strategy.scope():
            model = Recording(
                [
                    keras.Input((4,)),
                    keras.layers.Dense(8, name="first"),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dense(1, activation="sigmoid"),
                ]
            )
            model.compile(
                keras.optimizers.SGD(1e-4),
                "binary_crossentropy",
                metrics=["accuracy"],
                steps_per_execution=steps_per_execution,
                **compiled,
            )
        model.seen = []
        return model

    def fit(self, name: str, data: Any, *, epochs: int = 2, spe: int = 1, **kwargs: Any) -> None:
        model = self.model(spe, run_eagerly=kwargs.pop("run_eagerly", False))
        ends: list[int] = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(len(model.seen)))
        given = data if isinstance(data, tuple) else (data,)
        history = model.fit(*given, epochs=epochs, callbacks=[note], verbose=0, **kwargs).history
        begins = [0, *ends]
        result(
            name,
            {
                "seen": [model.seen[a:b] for a, b in zip(begins, ends, strict=False)],
                "steps": int(model.optimizer.iterations.numpy()),
                "history": history,
                "is_finite": all(np.isfinite(w).all() for w in model.get_weights()),
                "first_weights": float(np.sum(np.abs(model.get_weights()[0]))),
            },
        )


def refused(name: str, distribute: Callable[[], Any]) -> None:
    """What the strategy says to data that cannot work."""
    try:
        distribute()
        result(name, "nothing")
    except (ConfigError, NotImplementedError) as failure:
        result(name, str(failure))


def loops(strategy: Any, folder: Path) -> None:
    """Loops over ended data: in a function, broken off, and by hand."""
    rank = strategy.rank
    uneven = dataset(1000 * rank, BATCH * (2 + 2 * rank) + 3, Policy.OFF)

    def count(batch: Any) -> tf.Tensor:
        return tf.shape(batch[0])[0]

    @tf.function
    def in_graph(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        steps, total = 0, 0
        for batch in data:
            total += strategy.run(count, args=(batch,))
            steps += 1
        return steps, total

    distributed = strategy.experimental_distribute_dataset(uneven)
    found = [[int(each) for each in in_graph(distributed)] for _ in range(2)]
    total = steps = 0
    for batch in distributed:
        total += int(strategy.run(count, args=(batch,)))
        steps += 1
    found.append([steps, total])
    for at, _ in enumerate(distributed):  # Others are ahead, and wait for nobody.
        if at == 5:
            break
    iterator = iter(distributed)
    next(iterator)
    del iterator
    result("loops", found)


def main() -> None:
    strategy = PoseidonStrategy()
    folder, rank, workers = Path(sys.argv[1]), strategy.rank, strategy.num_workers
    own = folder / str(rank)
    own.mkdir()
    write_files(own)
    cases = Cases(strategy)
    static = tf.data.Dataset.from_tensor_slices(rows(0, 3 * BATCH))
    static = static.batch(BATCH, drop_remainder=True).with_options(
        dataset(0, 1, Policy.OFF).options()
    )
    cases.fit("off-equal", static, epochs=1)
    cases.fit("off-uneven", dataset(1000 * rank, BATCH * (1 + rank) + 5, Policy.OFF))
    cases.fit("file", files(own, Policy.FILE))
    cases.fit("file-three-steps-per-execution", files(own, Policy.FILE), spe=3, epochs=1)
    cases.fit("file-eagerly", files(own, Policy.FILE), epochs=1, run_eagerly=True)
    cases.fit("auto-of-files", files(own, Policy.AUTO), epochs=1)
    cases.fit("file-repeated", files(own, Policy.FILE).repeat(), steps_per_epoch=4)
    cases.fit("file-steps", files(own, Policy.FILE).repeat(2), steps_per_epoch=3)
    kept = dataset(0, 50).filter(lambda x, y: x[0, 0] != BATCH)
    cases.fit("filtered", kept)
    cases.fit("generator", generator(7), epochs=1)
    cases.fit("generator-steps", generator(7), steps_per_epoch=3)
    cases.fit("uneven-generators", generator(3 + rank), epochs=1)
    random.seed(rank)
    cases.fit("PyDataset", Batches(5))
    cases.fit("PyDataset-steps", Batches(6), steps_per_epoch=3)
    distribute = strategy.experimental_distribute_dataset
    datasets = {
        "off, equal": static,
        "off": dataset(0, 24, Policy.OFF),
        "data": dataset(0, 29),
        "data, endless": dataset(0, 29).repeat(),
        "filtered": kept,
    }
    result(
        "cardinalities",
        {name: int(distribute(data).cardinality) for name, data in datasets.items()},
    )
    function = strategy.distribute_datasets_from_function(
        lambda context: dataset(1000 * context.input_pipeline_id, BATCH * (1 + rank) + 1)
    )
    cases.fit("from-function", function)
    context: list[Any] = []

    def keep(given: Any) -> Any:
        context.append(given)
        return dataset(0, 24)

    strategy.distribute_datasets_from_function(keep)
    given = context[0]
    numbers = [given.num_input_pipelines, given.input_pipeline_id, given.num_replicas_in_sync]
    result("context", [*numbers, given.get_per_replica_batch_size(workers * 4)])
    loops(strategy, own)

    def endless(on: int) -> tf.data.Dataset:
        data = dataset(0, 24, Policy.OFF)
        return data.repeat() if rank == on else data

    refused("endless-on-one", lambda: distribute(endless(1)))
    refused("other-batches", lambda: distribute(dataset(0, 24 + 24 * rank)))
    refused("other-policy", lambda: distribute(dataset(0, 24, (Policy.DATA, Policy.OFF)[rank > 0])))
    refused(
        "other-dtype", lambda: distribute(dataset(0, 24).map(lambda x, y: (x, y if rank else x)))
    )
    per_replica = tf.distribute.InputOptions(
        experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA
    )
    one_by_one = tf.data.Dataset.range(4)
    refused("single-samples", lambda: distribute(one_by_one))
    by_function = strategy.distribute_datasets_from_function
    refused("filtered-samples", lambda: by_function(lambda _: one_by_one.filter(lambda i: i > 0)))
    result("own-samples", [int(each) for each in by_function(lambda _: one_by_one)])
    refused("per-replica", lambda: distribute(dataset(0, 24), per_replica))
    cases.fit("endless-on-one-steps", endless(1), steps_per_epoch=5, epochs=1)


if __name__ == "__main__":
    main()
