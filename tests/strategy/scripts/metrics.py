"""Every kind of metric and callback in `fit` and `evaluate`, alone or as one of several workers."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH, ROWS = 12, 48
strategy = PoseidonStrategy()
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 6)).astype("float32")
binary = (x[:, :1] + random.normal(size=(ROWS, 1)) > 0).astype("float32")
classes = random.integers(0, 3, ROWS)


class Spread(keras.metrics.Metric):
    """Several variables, of several types and aggregations, and a result that is not linear."""

    def __init__(self) -> None:
        super().__init__(name="spread")
        self.total = self.add_variable((2,), "zeros", name="total")
        self.count = self.add_variable((), "zeros", dtype="int32", name="count")
        self.level = self.add_variable((), "zeros", aggregation="mean", name="level")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_pred = tf.cast(y_pred, "float32")
        self.total.assign_add([tf.reduce_sum(y_pred), tf.reduce_sum(tf.square(y_pred))])
        self.count.assign_add(tf.size(y_pred))
        self.level.assign(7.0)

    def result(self) -> Any:
        count = keras.ops.cast(self.count, "float32")
        mean = self.total[0] / count
        return {
            "variance": self.total[1] / count - mean * mean,
            # Older Keras logs a variable itself as one, which no strategy makes a number of.
            "level": 1.0 * self.level,
        }


class Rows(keras.metrics.Metric):
    """Its result is its variable itself."""

    def __init__(self) -> None:
        super().__init__(name="rows")
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(tf.cast(tf.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return self.total


def report_history(name: str, history: Any) -> None:
    result(name, {key: [float(v) for v in values] for key, values in history.history.items()})


def kinds_of_metrics() -> None:
    """Two outputs with a loss each; metrics that are no sums; validation in every second epoch."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(8, activation="tanh")(inputs)
        model = keras.Model(
            inputs,
            {
                "yes": keras.layers.Dense(1, activation="sigmoid", name="yes")(hidden),
                "kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden),
            },
        )
        model.compile(
            keras.optimizers.SGD(0.1),
            {"yes": "binary_crossentropy", "kind": "sparse_categorical_crossentropy"},
            loss_weights={"yes": 1.0, "kind": 0.5},
            metrics={
                "yes": ["accuracy", keras.metrics.AUC(num_thresholds=20), Spread()],
                "kind": ["accuracy", keras.metrics.SparseCategoricalAccuracy(name="again")],
            },
            weighted_metrics={"yes": [keras.metrics.RootMeanSquaredError(name="rmse")]},
        )
    y = {"yes": binary, "kind": classes}
    seen: list[dict[str, Any]] = []
    history = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=4,
        shuffle=False,
        verbose=0,
        validation_data=(x[::2], {name: values[::2] for name, values in y.items()}),
        validation_freq=2,
        callbacks=keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append({k: float(v) for k, v in logs.items()})
        ),
    )
    report_history("kinds", history)
    result("seen-by-a-callback", seen)
    found = model.evaluate(x, y, BATCH, 0, return_dict=True)
    result("evaluate", {name: float(value) for name, value in found.items()})
    result("lone-read", float(model.metrics[0].result()) > 0 if strategy.rank == 0 else True)


def metrics_made_outside_of_the_scope() -> None:
    """A confusion matrix whose variables no strategy knows."""
    keras.utils.set_random_seed(2)
    outside = keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
        loss = keras.losses.SparseCategoricalCrossentropy()
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=[outside])
    history = model.fit(x, classes, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    report_history("outside", history)


class OwnStep(keras.Model):
    """A `train_step` that returns a metric's result, a number of its own, and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.errors = keras.metrics.MeanAbsoluteError(name="errors")

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def train_step(self, data: Any) -> Any:
        features, labels = data
        with tf.GradientTape() as tape:
            predicted = self(features, training=True)
            loss = tf.reduce_mean(tf.square(predicted - labels))
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.errors.update_state(labels, predicted)
        return {
            "errors": self.errors.result(),
            "squared": loss,
            "mean_of_first": tf.reduce_mean(features[:, 0]),
        }


def own_train_step() -> None:
    """The model is built by the first batch."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = OwnStep()
        model.compile(keras.optimizers.SGD(0.1))
    history = model.fit(x, binary, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    report_history("own-step", history)
    result("own-step-weights", [weight.tolist() for weight in model.get_weights()])


def train_by_batches() -> None:
    """Each worker gives its share of the batch, and starts with other values."""
    keras.utils.set_random_seed(5 + strategy.rank)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Dense(4, activation="tanh"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    share = BATCH // strategy.num_workers
    for begin in range(0, ROWS, BATCH):
        rows = slice(begin + strategy.rank * share, begin + (strategy.rank + 1) * share)
        logs = model.train_on_batch(x[rows], binary[rows], return_dict=True)
        assert set(logs) == {"loss", "mae"}
    result("by-batches", [weight.tolist() for weight in model.get_weights()])
    # Alone: nothing of this makes another worker wait.
    if strategy.rank == 0:
        model.reset_metrics()  # Older Keras would go on from the batches before.
        loss, error = model.test_on_batch(x, binary)
        predicted = model.predict_on_batch(x[:5])
        result("shape", list(predicted.shape))
        result("of-a-batch", [float(loss), float(error)])
        result("by-hand", float(np.mean((np.asarray(model(x, training=False)) - binary) ** 2)))


def callbacks_that_read_logs() -> None:
    """They do the same everywhere, since the logs are the same everywhere."""

    def fitted(optimizer: Callable[[], Any], epochs: int, *callbacks: Any) -> Any:
        keras.utils.set_random_seed(6)
        with strategy.scope():
            model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
            model.compile(optimizer(), "mse")
        history = model.fit(
            x,
            binary,
            batch_size=BATCH,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            validation_data=(x[1::3], binary[1::3]),
            callbacks=list(callbacks),
        )
        return model, history

    plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1)
    _, history = fitted(lambda: keras.optimizers.SGD(0.9), 6, plateau)
    report_history("plateau", history)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)
    _, history = fitted(lambda: keras.optimizers.SGD(0.1), 3, scheduler)
    report_history("scheduler", history)
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    _, history = fitted(lambda: keras.optimizers.Adam(decay), 3)
    report_history("schedule", history)
    early = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    model, history = fitted(lambda: keras.optimizers.SGD(0.9), 8, early)
    report_history("early", history)
    result("early-weights", [weight.tolist() for weight in model.get_weights()])


def what_is_printed() -> None:
    """Bars by default and where they are asked for, and what they show of batches and epochs."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
    after_batches: list[dict[str, float]] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: after_batches.append(
            {name: float(value) for name, value in logs.items()}
        )
    )
    held_out = x[::2], binary[::2]
    print("BARS BEGIN", flush=True)
    by_default = model.fit(x, binary, batch_size=BATCH, validation_data=held_out, callbacks=[note])
    model.evaluate(x, binary, BATCH, "auto")
    model.predict(x)
    print("BARS END", flush=True)
    asked_for = model.fit(x, binary, BATCH, 1, 2, validation_data=held_out)
    report_history("shown-by-default", by_default)
    report_history("shown-as-asked", asked_for)
    result("after-batches", after_batches)
    parameters = inspect.signature(keras.utils.Progbar).parameters
    result("bar-averages", "stateless_metrics" not in parameters)


def a_result_that_is_a_variable() -> None:
    """Not alone: older Keras makes no number of it under any strategy."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=[Rows()])
    history = model.fit(x, binary, batch_size=BATCH, verbose=0).history
    result("rows", float(history["rows"][0]))


def main() -> None:
    kinds_of_metrics()
    metrics_made_outside_of_the_scope()
    own_train_step()
    if strategy.num_workers > 1:
        train_by_batches()
        a_result_that_is_a_variable()
    callbacks_that_read_logs()
    what_is_printed()


if __name__ == "__main__":
    main()
