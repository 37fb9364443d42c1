"""Which samples a worker sees, and what `predict`, `evaluate` and `fit` say, in one process.

Argument: folder for the predictions.
"""

import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH = 12
ROWS = [37, 41]  # On two workers the last batch has 1 and 0, and 3 and 2 rows.
EVEN_ROWS = 36


def rows_with_ids(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, of which the first is the sample's id, and labels."""
    random = np.random.default_rng(3)
    x = random.normal(size=(num_rows, 4)).astype("float32")
    x[:, 0] = np.arange(num_rows)
    return x, random.normal(size=(num_rows, 1)).astype("float32")


class Recording(keras.Sequential):
    """Notes the id of every sample it trains on."""

    seen: list[int]

    def train_step(self, data: Any) -> Any:
        tf.numpy_function(self._note, [data[0][:, 0]], [])
        return super().train_step(data)

    def _note(self, ids: Any) -> None:
        self.seen.extend(int(each) for each in ids)


def seen_by_epoch(strategy: Any, num_rows: int, source: str) -> list[list[int]]:
    """The ids that this worker trained on, in each of two epochs with default shuffling."""
    with strategy.scope():
        model = Recording([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-6), "mse")
    model.seen = []
    ends: list[int] = []
    note_end = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(len(model.seen))
    )
    x, y = rows_with_ids(num_rows)
    data: tuple[Any, ...] = (x, y, BATCH)
    if source == "dataset":
        data = (tf.data.Dataset.from_tensor_slices((x, y)).shuffle(num_rows).batch(BATCH),)
    model.fit(*data, epochs=2, callbacks=[note_end], verbose=0)
    return [model.seen[: ends[0]], model.seen[ends[0] :]]


def predictions(strategy: Any, num_rows: int) -> dict[str, Any]:
    """What a model says that gives every sample its id back, and a model with two outputs."""
    x, _ = rows_with_ids(num_rows)
    with strategy.scope():
        inputs = keras.Input((4,))
        first = keras.layers.Dense(1, use_bias=False, name="first")
        twice = keras.layers.Rescaling(2.0)
        model = keras.Model(inputs, first(inputs))
        two = keras.Model(inputs, {"id": first(inputs), "twice": twice(first(inputs))})
    first.set_weights([np.array([[1.0], [0.0], [0.0], [0.0]], "float32")])
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    both = two.predict(dataset, verbose=0)
    found = {
        "numpy": model.predict(x, batch_size=BATCH, verbose=0),
        "dataset": model.predict(dataset, verbose=0),
        "first of two outputs": both["id"],
        "second of two outputs": both["twice"] / 2,
    }
    model.compile(steps_per_execution=2)
    found["two steps per execution"] = model.predict(dataset, verbose=0)
    return found


def scores(strategy: Any) -> dict[str, Any]:
    """The history of three epochs and two evaluations, where all shares are equal."""
    with strategy.scope():
        layer = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.1))
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile(
            keras.optimizers.SGD(1e-4),
            "mse",
            metrics=["mae", keras.metrics.RootMeanSquaredError(name="rmse")],
        )
    x, y = rows_with_ids(EVEN_ROWS)
    other_x, other_y = x[:24] + 1.0, y[:24]
    fitted = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=3,
        shuffle=False,
        validation_data=(other_x, other_y),
        validation_batch_size=BATCH,
        verbose=0,
    )
    again = tf.data.Dataset.from_tensor_slices((other_x, other_y)).batch(BATCH)
    return {
        "history": fitted.history,
        "numpy": model.evaluate(x, y, batch_size=BATCH, return_dict=True, verbose=0),
        "dataset": model.evaluate(again, return_dict=True, verbose=0),
    }


def main() -> None:
    strategy = PoseidonStrategy()
    if os.environ.get("EXTRA_WORK"):
        # What one worker does more than the others must not change what it sees.
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        keras.random.normal((2, 2))
    for num_rows in ROWS:
        result(f"seen-numpy-{num_rows}", seen_by_epoch(strategy, num_rows, "numpy"))
        result(f"seen-dataset-{num_rows}", seen_by_epoch(strategy, num_rows, "dataset"))
        np.savez(
            Path(sys.argv[1]) / f"predictions-{num_rows}-{strategy.rank}.npz",
            **predictions(strategy, num_rows),
        )
    result("scores", scores(strategy))


if __name__ == "__main__":
    main()
