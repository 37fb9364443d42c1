"""Custom loops that would train each worker on its own, or on what no sum can be made of."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

strategy = poseidon_tf.PoseidonStrategy()
X = tf.constant([[1.0, 2.0]]) * (strategy.rank + 1.0)


def made(optimizer: Callable[[], Any], *, in_scope: bool = True) -> tuple[Any, Any]:
    """A model of the strategy, and an optimizer."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with strategy.scope() if in_scope else contextlib.nullcontext():
        own = optimizer()
        if in_scope:
            own.build(model.trainable_variables)
        return model, own


def train(model: Any, optimizer: Any, tape_class: Any = tf.GradientTape) -> None:
    """One step on this worker's own rows."""
    with tape_class() as tape:
        loss = tf.reduce_sum(model(X))
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)


def apply_given(model: Any, optimizer: Any) -> None:
    """No tape: TensorFlow has none of its own in cross-replica contexts."""
    gradients = [tf.ones(variable.shape) for variable in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)


def outcome(model: Any, optimizer: Any, step: Callable[[], Any]) -> list[Any]:
    """The refusal, and what of model and optimizer has changed by then."""
    before = model.get_weights()
    said = "accepted"
    try:
        step()
    except Exception as failure:  # AutoGraph wraps what is raised while it traces.
        said = f"{type(failure).__name__}: {failure}"
    changed = not all(map(np.array_equal, before, model.get_weights()))
    return [said, changed or int(optimizer.iterations.numpy())]


def outside_of_replicas() -> dict[str, list[Any]]:
    """The ways to call an optimizer where no replica runs."""

    def of(
        optimizer: Any,
        how: Callable[[Callable[[], Any]], Any],
        step: Callable[[Any, Any], Any] = train,
        **made_how: bool,
    ) -> list[Any]:
        model, own = made(optimizer, **made_how)
        return outcome(model, own, lambda: how(lambda: step(model, own)))

    def in_scope_of(step: Callable[[], Any]) -> None:
        with strategy.scope():
            step()

    def in_merge_call(step: Callable[[], Any]) -> None:
        strategy.run(lambda: tf.distribute.get_replica_context().merge_call(lambda _: step()))

    def accumulating() -> Any:
        return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)

    def scaled() -> Any:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

    return {
        "eager": of(keras.optimizers.Adam, lambda step: step()),
        "function": of(keras.optimizers.Adam, lambda step: tf.function(step)()),
        "in the scope": of(keras.optimizers.Adam, in_scope_of, apply_given),
        "in a merge call": of(keras.optimizers.Adam, in_merge_call, apply_given),
        "accumulating": of(accumulating, lambda step: step()),
        "scaled": of(scaled, lambda step: step()),
        "optimizer made elsewhere": of(keras.optimizers.SGD, lambda step: step(), in_scope=False),
    }


def overwritten() -> dict[str, list[Any]]:
    """Steps that have a variable which Keras overwrites with its gradient."""
    found = {}
    for way in ("eager", "function", "tape", "scaled", "fit", "float8"):
        model, optimizer = made(lambda: keras.optimizers.SGD(0.1))
        if way == "scaled":
            with strategy.scope():
                optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        if way == "float8":
            with strategy.scope():
                model.quantize("float8")
                optimizer = keras.optimizers.SGD(0.1)
        else:
            model.layers[0].bias.overwrite_with_gradient = True
        tape_class = poseidon_tf.GradientTape if way == "tape" else tf.GradientTape

        def step(model: Any = model, optimizer: Any = optimizer, tape: Any = tape_class) -> None:
            train(model, optimizer, tape)

        def fit(model: Any = model, optimizer: Any = optimizer) -> None:
            model.compile(optimizer, "mse")
            model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, verbose=0)

        run = tf.function(step) if way in ("function", "float8") else step

        def run_in_replicas(run: Any = run) -> None:
            strategy.run(run)

        found[way] = outcome(model, optimizer, fit if way == "fit" else run_in_replicas)
    return found


def alike_on_all() -> list[float]:
    """What every worker has already, divided by the number of replicas: one step of SGD(1)."""
    with strategy.scope():
        variable = tf.Variable([4.0, 2.0])
        optimizer = keras.optimizers.SGD(1.0)
    ready = tf.constant([1.0, 3.0])
    share = ready / strategy.num_replicas_in_sync
    strategy.run(lambda: optimizer.apply([share], [variable]))
    found: list[float] = variable.numpy().tolist()
    return found


result("outside", outside_of_replicas())
result("overwritten", overwritten())
result("alike", alike_on_all())
