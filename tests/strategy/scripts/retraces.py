"""Custom loops, retraces and several models under one strategy, in one process or several.

Argument: folder for the weights, which rank 0 leaves there.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN


def net(units: int, inputs: int = 16, outputs: int = 3) -> Any:
    """A net that is the same in every process, with a layer for which factors pay."""
    keras.utils.set_random_seed(units)
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(units, activation="tanh"),
            keras.layers.Dense(units, activation="tanh"),
            keras.layers.Dense(outputs),
        ]
    )


def samples(num_rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_rows, 16)).astype("float32")
    return x, random.normal(size=(num_rows, 3)).astype("float32")


def report_weights(strategy: Any, name: str, *models: Any) -> None:
    weights = [weight for model in models for weight in model.get_weights()]
    assert all(np.isfinite(weight).all() for weight in weights)
    joined = b"".join(np.ascontiguousarray(weight).tobytes() for weight in weights)
    result(f"digest-{name}", hashlib.sha256(joined).hexdigest())
    if strategy.rank == 0:
        np.savez(Path(sys.argv[1]) / f"{name}.npz", *weights)


def partial_batch_in_fit(strategy: Any, name: str, num_rows: int) -> None:
    """The last batch of 4 has other shares than the ones before."""
    with strategy.scope():
        model = net(32)
        model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(*samples(num_rows), batch_size=4, epochs=2, shuffle=False, verbose=0)
    report_weights(strategy, name, model)


def partial_batch_in_loop(strategy: Any) -> None:
    """A function that is traced for each static shape, so once more on a worker with less rows."""
    with strategy.scope():
        model = net(32)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    traces = []

    @tf.function
    def train_step(x: Any, y: Any) -> None:
        def replica_step(x: Any, y: Any) -> None:
            traces.append(x.shape[0])
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True) - y)) / 4
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        strategy.run(replica_step, args=(x, y))

    dataset = tf.data.Dataset.from_tensor_slices(samples(15)).batch(4)
    for _ in range(2):
        for x, y in strategy.experimental_distribute_dataset(dataset):
            train_step(x, y)
    result("traces", traces)
    report_weights(strategy, "partial-loop", model)


def alternating_models(strategy: Any) -> None:
    with strategy.scope():
        models = [net(24), net(40)]
        for model, rate in zip(models, (0.05, 0.01), strict=True):
            model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
    for epoch in range(2):
        for model in models:
            x, y = samples(24, seed=epoch)
            model.fit(x, y, batch_size=12, epochs=1, shuffle=False, verbose=0)
    report_weights(strategy, "alternating", *models)


def two_optimizers(strategy: Any) -> None:
    """One function with two tapes and two optimizers, as adversarial training has them."""
    with strategy.scope():
        generator, critic = net(24, outputs=16), net(20, outputs=1)
        optimizers = keras.optimizers.Adam(1e-3), keras.optimizers.SGD(0.05)

    @tf.function
    def train_step(batch: Any) -> Any:
        def replica_step(noise: Any) -> Any:
            with tf.GradientTape() as of_generator, tf.GradientTape() as of_critic:
                made = generator(noise, training=True)
                verdicts = critic(made, training=True), critic(noise + 1.0, training=True)
                wish = tf.reduce_sum(tf.square(verdicts[0] - 1.0)) / 12
                error = tf.reduce_sum(tf.square(verdicts[0]) + tf.square(verdicts[1] - 1.0)) / 12
            for model, tape, loss, optimizer in (
                (generator, of_generator, wish, optimizers[0]),
                (critic, of_critic, error, optimizers[1]),
            ):
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply(gradients, model.trainable_variables)
            return wish + error

        return strategy.reduce(SUM, strategy.run(replica_step, args=(batch,)), axis=None)

    dataset = tf.data.Dataset.from_tensor_slices(samples(48)[0]).batch(12)
    losses = [train_step(x) for x in strategy.experimental_distribute_dataset(dataset)]
    result("losses-two-optimizers", [float(loss) for loss in losses])
    report_weights(strategy, "two-optimizers", generator, critic)


def reductions(strategy: Any) -> None:
    """Values that a program reduces by itself; `own` is 1 on rank 0, 2 on rank 1, and so on."""
    own = tf.constant([1.0, 10.0]) * float(strategy.rank + 1)

    def in_function(replica_fn: Callable[..., Any]) -> Any:
        function = tf.function(lambda *args: strategy.run(replica_fn, args=args))
        return [function(own).numpy().tolist() for _ in range(2)]

    def context() -> Any:
        return tf.distribute.get_replica_context()

    def in_branch(which: Any) -> Any:
        def branches(value: Any) -> Any:
            return tf.cond(
                which > 0,
                lambda: context().all_reduce(SUM, value),
                lambda: context().all_reduce(SUM, -value),
            )

        return branches

    def in_loop(value: Any) -> Any:
        totals = tf.TensorArray(tf.float32, 6)
        for turn in tf.range(6):
            totals = totals.write(
                turn, context().all_reduce(SUM, value * tf.cast(turn, tf.float32))
            )
        return totals.stack()

    def several(value: Any) -> Any:
        first, second = context().all_reduce(SUM, [value, 2.0 * value])
        return first + 100.0 * second

    found = {
        "sum": in_function(lambda value: context().all_reduce(SUM, value)),
        "mean": in_function(lambda value: context().all_reduce(MEAN, value)),
        "list": in_function(several),
        "loop": in_function(in_loop),
        "reduce sum": strategy.reduce(SUM, own, axis=None).numpy().tolist(),
        "reduce mean": strategy.reduce(MEAN, own, axis=None).numpy().tolist(),
        "reduce rows": float(strategy.reduce(SUM, own, axis=0)),
        "reduce mean of rows": float(strategy.reduce(MEAN, own, axis=0)),
        "integers": strategy.reduce(SUM, tf.constant([2, 3]), axis=None).numpy().tolist(),
    }
    branch = tf.Variable(1, dtype=tf.int32)
    function = tf.function(lambda value: strategy.run(in_branch(branch), args=(value,)))
    for name, which in (("branch taken", 1), ("other branch", -1), ("branch again", 1)):
        branch.assign(which)
        found[name] = function(own).numpy().tolist()
    result("reductions", found)


def gradients_of_reductions(strategy: Any) -> None:
    """Of a function that reduces, by tapes outside of it; they sum over the workers as well."""

    @tf.function
    def twice_summed(x: Any) -> Any:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(SUM, x) + 10.0 * context.all_reduce(SUM, x)

    def one_tape() -> Any:
        x = tf.constant(1.0)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = (strategy.rank + 1.0) * twice_summed(x)
        return [tape.gradient(loss, x)]

    def two_tapes() -> Any:
        x = tf.constant(1.0)
        with tf.GradientTape() as tape, tf.GradientTape() as other:
            tape.watch(x)
            other.watch(x)
            loss = (strategy.rank + 1.0) * twice_summed(x)
            other_loss = (strategy.rank + 2.0) * twice_summed(x)
        return [tape.gradient(loss, x), other.gradient(other_loss, x)]

    for tapes in (one_tape, two_tapes):
        for mode, fn in (("eager", tapes), ("graph", tf.function(tapes))):
            found = [float(gradient) for gradient in strategy.run(fn)]
            result(f"gradients-{tapes.__name__}-{mode}", found)


def traced_at_another_call(strategy: Any) -> None:
    """A function with hidden reductions, which rank 0 traces at one line and rank 1 at another."""
    with strategy.scope():
        layer = keras.layers.BatchNormalization()
        layer.build((None, 2))
    function = tf.function(lambda x: strategy.run(lambda: layer(x, training=True)))
    rows = tf.constant([[1.0, 2.0], [3.0, 6.0]])
    function(rows)
    if strategy.rank == 0:
        function(rows)
    else:
        function(rows[:1])  # Is traced anew.
    result("moving-mean", layer.moving_mean.numpy().tolist())


def main() -> None:
    strategy = PoseidonStrategy()
    partial_batch_in_fit(strategy, "partial-3", 15)
    partial_batch_in_fit(strategy, "partial-1", 13)
    partial_batch_in_loop(strategy)
    alternating_models(strategy)
    two_optimizers(strategy)
    reductions(strategy)
    gradients_of_reductions(strategy)
    traced_at_another_call(strategy)
    planned = strategy.plan.variables if strategy.plan else ()
    result("schemes", sorted({str(variable.scheme) for variable in planned}))


if __name__ == "__main__":
    main()
