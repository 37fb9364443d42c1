"""Ways to run and build models with `fit`, alone or as one of several workers."""

import hashlib
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
y = random.normal(size=(ROWS, 1)).astype("float32")
SGD = keras.optimizers.SGD


def net(width: int = 8) -> Any:
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, "tanh", name="bottom"),
            keras.layers.Dense(1, name="top"),
        ]
    )


def report(name: str, *models: Any, **more: Any) -> None:
    weights = [np.asarray(weight) for model in models for weight in model.get_weights()]
    joined = b"".join(weight.tobytes() for weight in weights)
    result(
        name,
        {
            "weights": [weight.tolist() for weight in weights],
            "digest": hashlib.sha256(joined).hexdigest(),
            **more,
        },
    )


def fit(model: Any, **arguments: Any) -> list[float]:
    given = {"batch_size": BATCH, "shuffle": False, "verbose": 0} | arguments
    return [float(loss) for loss in model.fit(x, y, **given).history["loss"]]


def executions() -> None:
    cases: dict[str, dict[str, Any]] = {
        "two-steps": {"steps_per_execution": 2},
        "three-of-four-steps": {"steps_per_execution": 3},
        "eager": {"run_eagerly": True},
        "eager-two-steps": {"run_eagerly": True, "steps_per_execution": 2},
    }
    for name, options in cases.items():
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = net()
            model.compile(SGD(0.05, momentum=0.9), "mse", **options)
        # Of one case: to trace what validates takes as long as a fit.
        validation_data = (x[:24], y[:24]) if name == "two-steps" else None
        losses = fit(model, epochs=2, validation_data=validation_data)
        report(name, model, losses=losses)


def again_and_again() -> None:
    """Several fits, another optimizer, layers that are frozen and thawed, evaluate in between."""
    keras.utils.set_random_seed(2)
    with strategy.scope():
        model = net()
        model.compile(SGD(0.05, momentum=0.9), "mse")
    losses = fit(model) + fit(model, epochs=2, initial_epoch=1)
    num_plans = len(strategy.plan.variables) if strategy.plan else 0
    with strategy.scope():
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    losses += fit(model)
    kept = (len(strategy.plan.variables) if strategy.plan else 0) == num_plans
    bottom = model.get_layer("bottom")
    bottom.trainable = False
    with strategy.scope():
        model.compile(SGD(0.05), "mse")
    frozen = bottom.get_weights()
    losses += fit(model)
    unchanged = all(np.array_equal(a, b) for a, b in zip(frozen, bottom.get_weights(), strict=True))
    bottom.trainable = True
    with strategy.scope():
        model.compile(SGD(0.05), "mse")
    losses += fit(model)
    losses.append(float(model.evaluate(x, y, BATCH, 0, return_dict=True)["loss"]))
    report("again", model, losses=losses, unchanged=unchanged)
    result("routes-kept", kept)


class Lazy(keras.Model):
    """Without an input shape; one layer is made when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = keras.layers.Dense(8, activation="tanh")

    def build(self, shape: Any) -> None:
        self.top = keras.layers.Dense(1)
        self.bottom.build(shape)
        self.top.build((None, 8))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.top(self.bottom(inputs))


def single_batches() -> None:
    """Each worker gives its own share of every batch, and hears of that share."""
    keras.utils.set_random_seed(6)
    with strategy.scope():
        model = net()
        model.compile(SGD(0.05, momentum=0.9), "mse", metrics=["mae"])
    share = BATCH // strategy.num_workers
    logs = []
    for begin in range(strategy.rank * share, ROWS, BATCH):
        rows = slice(begin, begin + share)
        found = model.train_on_batch(x[rows], y[rows], return_dict=True)
        logs.append([float(found["loss"]), float(found["mae"])])
    report("on-batch", model, losses=[])
    result("on-batch-logs", logs)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at an address that TensorFlow takes over as it is, without copying."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Batches(keras.utils.PyDataset):
    """The user's own arrays, the same ones in every epoch."""

    def __init__(self) -> None:
        super().__init__()
        batches = range(0, ROWS, BATCH)
        self.held = [(aligned(x[at : at + BATCH]), aligned(y[at : at + BATCH])) for at in batches]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        return self.held[index]


def batches_that_python_makes() -> None:
    """Whole batches of all workers, of which each takes its share."""
    for name in ("PyDataset", "generator"):
        keras.utils.set_random_seed(7)
        with strategy.scope():
            model = net()
            model.compile(SGD(0.05, momentum=0.9), "mse")
        batches = Batches()
        given: Any = batches if name == "PyDataset" else (b for _ in range(2) for b in batches.held)
        steps = None if name == "PyDataset" else len(batches)
        arguments = {"epochs": 2, "steps_per_epoch": steps, "shuffle": False, "verbose": 0}
        losses = [float(loss) for loss in model.fit(given, **arguments).history["loss"]]
        report(name, model, losses=losses)
        joined = [np.concatenate(arrays) for arrays in zip(*batches.held, strict=True)]
        result(f"{name}-unchanged", all(map(np.array_equal, joined, (x, y))))


def lazy_models() -> None:
    keras.utils.set_random_seed(3)
    with strategy.scope():
        lazy = Lazy()
        unbuilt = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        for model in (lazy, unbuilt):
            model.compile(SGD(0.05, momentum=0.9), "mse")
    losses = fit(lazy) + fit(unbuilt)
    report("lazy", lazy, unbuilt, losses=losses)


class Gan(keras.Model):
    """Two models, two optimizers, two losses, as in Keras's own examples."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]
        )
        self.generator = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(6)]
        )
        self.critic_loss = keras.metrics.Mean(name="critic_loss")
        self.generator_loss = keras.metrics.Mean(name="generator_loss")
        self.built = True  # It has no `call`; under a strategy Keras would build it by that.

    def compile(self, critic: Any, generator: Any) -> None:
        super().compile()
        self.critic_optimizer, self.generator_optimizer = critic, generator
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

    @property
    def metrics(self) -> list[Any]:
        return [self.critic_loss, self.generator_loss]

    def train_step(self, real: Any) -> Any:
        noise = real[:, :3] * 0.5
        made = self.generator(noise)
        both = tf.concat([made, real], axis=0)
        ones = tf.ones((tf.shape(real)[0], 1))
        labels = tf.concat([ones, tf.zeros_like(ones)], axis=0)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            critic_loss = self.loss_fn(labels, self.critic(both, training=True))
        gradients = tape.gradient(critic_loss, self.critic.trainable_weights)
        self.critic_optimizer.apply_gradients(
            zip(gradients, self.critic.trainable_weights, strict=True)
        )
        with tf.GradientTape() as tape:
            verdicts = self.critic(self.generator(noise, training=True))
            generator_loss = self.loss_fn(tf.zeros_like(ones), verdicts)
        gradients = tape.gradient(generator_loss, self.generator.trainable_weights)
        self.generator_optimizer.apply_gradients(
            zip(gradients, self.generator.trainable_weights, strict=True)
        )
        # Under a strategy a loss of Keras is the share's mean divided by the number of replicas.
        self.critic_loss.update_state(critic_loss * replicas)
        self.generator_loss.update_state(generator_loss * replicas)
        return {
            "critic_loss": self.critic_loss.result(),
            "generator_loss": self.generator_loss.result(),
        }


def adversaries() -> None:
    keras.utils.set_random_seed(4)
    with strategy.scope():
        gan = Gan()
        gan.compile(SGD(0.05, momentum=0.9), SGD(0.02, momentum=0.9))
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH)
    history = gan.fit(dataset, epochs=2, verbose=0).history
    losses = [float(v) for name in sorted(history) for v in history[name]]
    report("gan", gan.critic, gan.generator, losses=losses)


class Evaluating(keras.callbacks.Callback):
    """Evaluates and predicts in the middle of an epoch, on all workers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1:
            self.found.append(float(self.model.evaluate(x, y, BATCH, 0)))
            self.found.append(float(self.model.predict(x, BATCH, 0).sum()))


def evaluate_inside() -> None:
    keras.utils.set_random_seed(5)
    inside = Evaluating()
    with strategy.scope():
        model = net()
        model.compile(SGD(0.05), "mse")
    fit(model, epochs=2, callbacks=[inside])
    report("inside", model, losses=inside.found)


def optimizer_outside_of_the_scope() -> None:
    with strategy.scope():
        model = net()
    model.compile(SGD(0.1), "mse")
    try:
        fit(model)
    except ValueError as error:
        result("optimizer-outside", str(error))


if __name__ == "__main__":
    executions()
    again_and_again()
    single_batches()
    batches_that_python_makes()
    lazy_models()
    adversaries()
    evaluate_inside()
    optimizer_outside_of_the_scope()
