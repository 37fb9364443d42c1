"""Trains with BatchNormalization, synchronised or not, alone or as one of several workers.

Arguments: "plain" or "poseidon", the number of this process's replicas, the cases, with commas
between them, and the strategy's `loss_weighting`.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

from poseidon_tf import PoseidonStrategy

BATCH, WIDTH = 12, 4


def samples(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(8)
    x = random.normal(1.0, 2.0, size=(rows, WIDTH)).astype("float32")
    return x, random.normal(size=(rows, 2)).astype("float32")


def net(synchronized: bool) -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.BatchNormalization(momentum=0.7, synchronized=synchronized),
            keras.layers.Dense(2),
        ]
    )


def values(variables: Any) -> Any:
    return [variable.numpy().tolist() for variable in variables]


def fit(strategy: Any, rows: int, is_validated: bool = False, **options: Any) -> dict[str, Any]:
    """Two epochs on a batch and a last one; a validation would use the moving statistics."""
    with strategy.scope():
        model = net(synchronized=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", **options)
        if not tf.distribute.has_strategy():  # Else a step is traced twice.
            model.optimizer.build(model.trainable_variables)
    x, y = samples(BATCH + rows)
    validation_data = (x[:BATCH], y[:BATCH]) if is_validated else None
    history = model.fit(
        *(x, y, BATCH, 2), shuffle=False, verbose=0, validation_data=validation_data
    ).history
    return {"weights": values(model.weights), "history": history}


def forward(strategy: Any, rows: int) -> dict[str, Any]:
    """Outputs, gradients of the inputs and of the weights, for one batch, in a function."""
    with strategy.scope():
        layer = keras.layers.BatchNormalization(momentum=0.7, synchronized=True)
        layer.build((None, WIDTH))
        layer.gamma.assign([0.5, 1.0, 1.5, 2.0])
    x, y = samples(rows)
    weight = np.concatenate([y, y**2], axis=1)

    @tf.function
    def both(batch: Any) -> Any:
        def step(x: Any, weight: Any) -> Any:
            context = tf.distribute.get_replica_context()
            variables = [v.value for v in layer.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x, training=True)
                loss = tf.reduce_sum(outputs**2 * weight)
            of_x, *others = tape.gradient(loss, [x, *variables])
            return outputs, of_x, [context.all_reduce("SUM", each) for each in others]

        return strategy.run(step, args=batch)

    data = tf.data.Dataset.from_tensor_slices((x, weight.astype("float32"))).batch(rows)
    (batch,) = strategy.experimental_distribute_dataset(data)
    outputs, of_x, of_weights = both(batch)
    local = strategy.experimental_local_results
    return {
        "outputs": np.concatenate([each.numpy() for each in local(outputs)]).tolist(),
        "of_x": np.concatenate([each.numpy() for each in local(of_x)]).tolist(),
        "of_weights": [local(each)[0].numpy().tolist() for each in of_weights],
        "moving": values(layer.non_trainable_variables),
    }


def own_statistics(strategy: Any) -> list[Any]:
    """What every step of a `fit` leaves of the moving statistics, and each worker's own share."""
    with strategy.scope():
        model = net(synchronized=False)
        model.compile(keras.optimizers.SGD(0.0), "mse")
    normalize = model.layers[1]
    found: list[Any] = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            found.append(values([normalize.moving_mean, normalize.moving_variance]))

    x, y = samples(3 * BATCH)
    hidden = np.asarray(model.layers[0](x))
    model.fit(x, y, BATCH, 1, 0, [Watch()], shuffle=False)
    return [found, hidden.tolist()]


CASES: dict[str, Callable[..., Any]] = {
    "whole": functools.partial(fit, rows=BATCH, is_validated=True),
    "unequal": functools.partial(fit, rows=7),
    "one-row": functools.partial(fit, rows=1),
    "several-steps": functools.partial(fit, rows=BATCH, steps_per_execution=2),
    "several-steps/one-row": functools.partial(fit, rows=1, steps_per_execution=2),
    "eager": functools.partial(fit, rows=7, run_eagerly=True),
    "forward": functools.partial(forward, rows=BATCH),
    "forward/unequal": functools.partial(forward, rows=7),
    "forward/one-row": functools.partial(forward, rows=1),
    "own": own_statistics,
}


def main() -> None:
    num_replicas = int(sys.argv[2])
    devices = logical_cpus(num_replicas)
    if sys.argv[1] == "plain":
        strategy: Any = tf.distribute.get_strategy()
    else:
        weighting: Any = sys.argv[4]
        strategy = PoseidonStrategy(devices=devices, loss_weighting=weighting)
    for case in sys.argv[3].split(","):
        result(case, CASES[case](strategy))


if __name__ == "__main__":
    main()
