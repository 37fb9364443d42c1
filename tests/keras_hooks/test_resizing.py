"""Which data and learning rates workers can keep their batches with, and what else is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks.resizing import (
    in_batches_of,
    refusal,
    rows_of_worker,
    scale_learning_rate,
)

ROWS = 30
x = np.zeros((ROWS, 2), "float32")
samples = tf.data.Dataset.from_tensor_slices((x, x[:, 0]))


def model(rate: Any = 0.1) -> Any:
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(rate), "mse")
    return made


def refused(folder: Path, rate: Any = 0.1, *more: Any, **arguments: Any) -> str:
    backup = keras.callbacks.BackupAndRestore(folder)
    return refusal(model(rate), {"x": x, **arguments}, [backup, *more])


def with_policy(dataset: Any, policy: Any) -> Any:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = policy
    return dataset.with_options(options)


@pytest.mark.parametrize(
    "data",
    [
        x,
        {"a": x, "b": x},
        samples.batch(4),
        samples.shuffle(9).map(lambda x, y: (x, y)).batch(4).prefetch(2),
        samples.batch(4, drop_remainder=True).cache(),
        samples.filter(lambda *_: True).batch(4),
        with_policy(samples.batch(4), tf.data.experimental.AutoShardPolicy.DATA),
    ],
)
def test_data_of_which_the_samples_are_known_can_be_put_into_other_batches(
    tmp_path: Path, data: Any
) -> None:
    assert refused(tmp_path, x=data) == ""


class Own(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"x": Own()}, "a Own makes its own batches"),
        ({"x": iter([(x, x)])}, "makes its own batches"),
        ({"x": samples.batch(4), "steps_per_epoch": 3}, "steps_per_epoch says how much"),
        (
            {"x": with_policy(samples.batch(4), tf.data.experimental.AutoShardPolicy.OFF)},
            "each worker has data of its own",
        ),
        ({"x": tf.data.TextLineDataset("file").batch(4)}, "each worker has data of its own"),
        ({"x": samples.batch(4).repeat(2)}, "and not how many samples"),
        ({"x": samples}, "how many rows a batch has"),
        ({"x": samples.batch(4).map(lambda x, y: (x, y))}, "as where map() follows batch()"),
    ],
)
def test_other_data_is_refused_in_the_first_run(
    tmp_path: Path, arguments: dict[str, Any], says: str
) -> None:
    """And what to do instead is said."""
    said = refused(tmp_path, **arguments)
    assert said.startswith("on_resize='keep_worker_batch', but ") and says in said
    assert said.endswith("; take 'keep_global_batch'")


def test_a_learning_rate_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """It would be another one by itself, or come back to what it was."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    assert "a schedule counts steps" in refused(tmp_path, schedule)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    assert "a LearningRateScheduler sets" in refused(tmp_path, 0.1, scheduler)
    plateau = keras.callbacks.ReduceLROnPlateau()  # Which multiplies what is there.
    assert refused(tmp_path, 0.1, plateau) == ""


def test_without_a_backup_nothing_is_refused() -> None:
    """There is nothing to go on from."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    assert refusal(model(schedule), {"x": Own()}, []) == ""


def test_a_batch_that_is_not_divided_equally_is_refused() -> None:
    assert rows_of_worker(12, 3) == 4
    for rows, said in ((10, "10 rows"), (None, "an unknown number of rows")):
        with pytest.raises(ConfigError, match=f"3 workers have batches of {said}"):
            rows_of_worker(rows, 3)


@pytest.mark.parametrize(
    "given, batches",
    [
        (samples.batch(4), [8, 8, 8, 6]),
        (samples.batch(4, drop_remainder=True), [8, 8, 8]),  # Of the 28 that it has.
        (samples.batch(4).prefetch(1), [8, 8, 8, 6]),
    ],
)
def test_samples_come_in_batches_of_another_size(given: Any, batches: list[int]) -> None:
    """As many batches are known before as Keras would know of the script's own."""
    anew = in_batches_of(8, {"x": given, "epochs": 2})["x"]
    assert [len(each) for each, _ in anew] == batches
    assert int(anew.cardinality()) == len(batches)


def test_data_of_that_size_stays_what_it_is() -> None:
    """As of a script that makes batches for as many workers as there are."""
    given = samples.batch(8)
    assert in_batches_of(8, {"x": given})["x"] is given
    assert in_batches_of(8, {"x": x, "batch_size": 12}) == {"x": x, "batch_size": 8}
    open_ended = in_batches_of(8, {"x": samples.filter(lambda *_: True).batch(4)})["x"]
    assert int(open_ended.cardinality()) == tf.data.UNKNOWN_CARDINALITY


def test_the_learning_rate_is_scaled_as_it_stands() -> None:
    """What callbacks have made of it so far stays in it; a loss scale has its own optimizer's."""
    made = model(0.3)
    assert scale_learning_rate(made, 2 / 3) == pytest.approx((0.3, 0.2))
    made.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.3)), "mse")
    assert scale_learning_rate(made, 2.0) == pytest.approx((0.3, 0.6))
    assert float(made.optimizer.inner_optimizer.learning_rate) == pytest.approx(0.6)
