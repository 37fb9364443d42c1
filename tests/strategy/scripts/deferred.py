"""Many ways to `fit`, with updates at the beginning of the next step or, by argument, in the step.

Arguments: "auto", "in-step" or "always"; how gradients go: "planned", "ps" or "sfb"; the cases,
with commas in between.
"""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.keras_hooks import why_in_step

BATCH, ROWS, EPOCHS = 12, 60, 2
OPTION: dict[str, Any] = {"auto": "auto", "in-step": False, "always": True}
layers = keras.layers
SGD, Adam, Nadam = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.Nadam
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 24)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")
words = random.integers(0, 40, size=(ROWS, 6))
why_in_step.LEAST_BYTES = 0  # The nets here are small.
strategy = poseidon_tf.PoseidonStrategy(
    schemes={"planned": {}, "ps": {"*": "ps"}, "sfb": {"*/high/kernel": "sfb"}}[sys.argv[2]],
    defer_updates=OPTION[sys.argv[1]],
)


def net(*middle: Any, **dense: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((24,)),
            layers.Dense(48, "tanh", name="low", **dense),
            *middle,
            layers.Dense(48, "tanh", name="high", **dense),
            layers.Dense(1, name="top"),
        ]
    )


def normalized() -> Any:
    """A net whose last bits tell whether a step was in a loop."""
    return net(layers.LayerNormalization())


def table() -> Any:
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int64"),
            layers.Embedding(40, 8, name="table"),
            layers.LSTM(8),
            layers.Dense(1),
        ]
    )


def digest(model: Any) -> str:
    values = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    return hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest()


class Reader(keras.callbacks.Callback):
    """Looks at all variables after every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(digest(self.model))


class BatchReader(Reader):
    """And after every execution."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(digest(self.model))


class Lookup(keras.metrics.Mean):
    """A metric that looks at a weight."""

    model: Any = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(tf.reduce_sum(self.model.trainable_variables[0]))


class Noise(keras.layers.Layer):
    """Random numbers whose state TensorFlow keeps in the graph."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + tf.random.normal(tf.shape(inputs), stddev=0.1) if training else inputs


class Averages(keras.layers.Layer):
    """Has what its workers saw last, averaged over all of them in the step."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=shape[1:], trainable=False, aggregation="mean")

    def call(self, inputs: Any) -> Any:
        self.seen.assign(keras.ops.mean(inputs, axis=0))
        return inputs


class Halved(keras.optimizers.SGD):
    """A rule of the user's own."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient / 2, variable, learning_rate)


def compiled(build: Callable[[], Any], optimizer: Callable[[], Any], **options: Any) -> Any:
    keras.utils.set_random_seed(11)
    with strategy.scope():
        model = build()
        model.compile(optimizer(), "mse", **options)
    return model


def fit(case: str, model: Any, *, reader: Any = None, callbacks: Any = (), **given: Any) -> None:
    """Train; what was seen of the variables, the losses, and what became of updates."""
    reader = reader or Reader()
    before = strategy.statistics().updates
    arguments = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "shuffle": False} | given
    features = arguments.pop("x", x)
    labels = arguments.pop("y", None if isinstance(features, tf.data.Dataset) else y)
    history = model.fit(features, labels, callbacks=[reader, *callbacks], **arguments)
    after = strategy.statistics().updates
    flushes = {k: n - before.flushes.get(k, 0) for k, n in after.flushes.items()}
    result(
        case.replace(", ", "-").replace(" ", "-"),
        {
            "seen": [*reader.seen, digest(model)],
            "history": {k: [float(v) for v in vs] for k, vs in history.history.items()},
            "deferred": after.deferred - before.deferred,
            "flushes": {k: n for k, n in flushes.items() if n},
            "why": after.why_in_step,
        },
    )


def two_optimizers() -> None:
    fit("momentum", compiled(net, lambda: SGD(0.1, momentum=0.9)))
    fit("adam", compiled(net, lambda: Adam(0.01, weight_decay=0.1)))


def optimizers() -> None:
    limit = keras.constraints.MaxNorm(0.5)
    cases: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "clipped": (lambda: net(dtype="mixed_bfloat16"), lambda: Adam(0.01, clipnorm=0.01)),
        "ema": (net, lambda: SGD(0.1, use_ema=True, ema_momentum=0.7, clipvalue=0.02)),
        "constraint": (lambda: net(kernel_constraint=limit), lambda: SGD(0.5, nesterov=True)),
        "schedule": (
            net,
            lambda: keras.optimizers.Nadam(
                keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
            ),
        ),
        "normalization": (
            lambda: net(layers.BatchNormalization(), layers.Dropout(0.3)),
            lambda: Halved(0.1),
        ),
    }
    for name, (build, optimizer) in cases.items():
        fit(name, compiled(build, optimizer))
    fit("table", compiled(table, lambda: Adam(0.01)), x=words)


def executions() -> None:
    for steps, reader in ((3, BatchReader()), (8, Reader())):
        model = compiled(normalized, lambda: SGD(0.1, momentum=0.9), steps_per_execution=steps)
        fit(f"{steps} steps", model, reader=reader)
    fit("read", compiled(net, lambda: SGD(0.1)), reader=BatchReader())


def uneven() -> None:
    for steps in (1, 2, 3):
        model = compiled(net, lambda: Adam(0.01), steps_per_execution=steps)
        fit(f"uneven, {steps} steps", model, x=x[:45], y=y[:45])
    fit("parts", compiled(net, lambda: Adam(0.01)), steps_per_epoch=2, epochs=2)


def unknown() -> None:
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).filter(lambda *_: True)
    fit("unknown length", compiled(net, lambda: Adam(0.01)), x=data, batch_size=None)


def ends() -> None:
    early = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
    model = compiled(net, lambda: SGD(0.1))
    fit("early stop", model, callbacks=[early], epochs=9)
    fit("again", model, validation_data=(x[:24], y[:24]), verbose=0)
    bad = x.copy()
    bad[30] = np.nan
    stop = keras.callbacks.TerminateOnNaN()
    fit("nan", compiled(net, lambda: SGD(0.1)), x=bad, callbacks=[stop])


def found_in_trace() -> None:
    """What cannot be deferred, as only the trace of a step shows."""
    metric = Lookup(name="lookup")
    model = compiled(net, lambda: SGD(0.1), metrics=[metric], steps_per_execution=2)
    metric.model = model
    fit("metric", model)
    fit("metric again", model)
    fit("noise", compiled(lambda: net(Noise()), lambda: SGD(0.1)))


def refused_alone() -> None:
    """What the trace of rank 0 alone shows, in steps in which a layer reduces something."""
    for steps in (1, 2):
        middle = [Averages(), *([Noise()] if strategy.rank == 0 else [])]
        model = compiled(
            lambda middle=middle: net(*middle),  # type: ignore[misc]
            lambda: SGD(0.1, momentum=0.9),
            steps_per_execution=steps,
        )
        fit(f"alone, {steps} steps", model)
        fit(f"alone again, {steps} steps", model)


class Interrupted(keras.Sequential):
    """Somebody presses Ctrl-C while `fit` asks after its third execution whether to stop."""

    begun = False
    asked = 0

    @property
    def stop_training(self) -> bool:
        self.asked += self.begun
        if self.asked == 8:  # Once as it begins, and three times in each execution.
            raise KeyboardInterrupt
        return False

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        pass


def interrupted() -> None:
    model = compiled(lambda: Interrupted(net().layers), lambda: SGD(0.1, momentum=0.9))
    model.begun = True
    before = strategy.statistics().updates.flushes.get("end of fit", 0)
    try:
        model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)
    except KeyboardInterrupt:
        updates = strategy.statistics().updates
        flushes = updates.flushes.get("end of fit", 0) - before
        result("interrupted", [digest(model), int(model.optimizer.iterations.numpy())])
        result("interrupted-flushes", flushes)


class Watched(keras.Sequential):
    """Where `fit` asks between two steps whether to stop, another thread looks at the model."""

    seen: list[list[float]] | None = None

    @property
    def stop_training(self) -> bool:
        if self.seen is not None:
            reader = threading.Thread(target=self.look)
            reader.start()
            reader.join()
        return False

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        pass

    def look(self) -> None:
        assert self.seen is not None
        self.seen.append([float(np.sum(weight)) for weight in self.get_weights()])
        self.seen[-1].append(float(self.optimizer.iterations.numpy()))


def observed() -> None:
    """A thread looks at the model where no callback does."""
    model = compiled(lambda: Watched(net().layers), lambda: SGD(0.1, momentum=0.9))
    model.seen = []
    fit("thread", model)
    result("thread-saw", model.seen)


def watched() -> Any:
    return Watched(net(layers.BatchNormalization()).layers)


def observed_alone() -> None:
    """Rank 0 alone is looked at, between executions in which layers reduce moving statistics.

    It then goes on with one step and then the others, rank 1 with all in one execution.
    """
    for steps in (2, 3):
        model = compiled(watched, lambda: Adam(0.01), steps_per_execution=steps)
        if strategy.rank == 0:
            model.seen = []
        fit(f"one thread, {steps} steps", model)


class Probe(keras.callbacks.Callback):
    """Trains another model, in the step, while `fit` runs."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == EPOCHS - 1:
            return
        other = compiled(net, lambda: SGD(0.1, loss_scale_factor=2.0))
        other.fit(x[:24], y[:24], batch_size=BATCH, verbose=0, shuffle=False)


class Assigns(keras.Sequential):
    """Where `fit` asks between two steps whether to stop, the learning rate is set."""

    rates: Iterator[float] | None = None

    @property
    def stop_training(self) -> bool:
        if self.rates is not None:
            self.optimizer.learning_rate = next(self.rates)
        return False

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        pass


def within() -> None:
    """What happens between two steps, on all workers or on one."""
    fit("within", compiled(net, lambda: SGD(0.1, momentum=0.9)), callbacks=[Probe()])
    model = compiled(lambda: Assigns(net().layers), lambda: SGD(0.1, momentum=0.9))
    model.rates = (0.1 / n for n in range(1, 99))
    fit("assigned", model)
    model = compiled(net, lambda: SGD(0.1, momentum=0.9), steps_per_execution=3)
    fit("one looks", model, reader=BatchReader() if strategy.rank == 0 else Reader())


def refused() -> None:
    for name, optimizer in (
        ("refused at once", lambda: SGD(0.1, global_clipnorm=0.1)),
        ("refused when traced", lambda: SGD(0.1)),
    ):
        build = net if "once" in name else lambda: net(Noise())
        try:
            fit("never", compiled(build, optimizer))
        except poseidon_tf.ConfigError as error:
            result(name.replace(" ", "-"), str(error))


def chosen() -> Iterator[Callable[[], None]]:
    if sys.argv[1] == "always":
        yield refused
        return
    groups = (
        two_optimizers,
        optimizers,
        executions,
        uneven,
        unknown,
        ends,
        found_in_trace,
        refused_alone,
        observed,
        observed_alone,
        interrupted,
        within,
    )
    all_cases = {each.__name__: each for each in groups}
    for name in sys.argv[3].split(","):
        yield all_cases[name]


if __name__ == "__main__":
    for run in chosen():
        run()
