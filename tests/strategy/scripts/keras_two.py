"""Keras 3 and Keras 2 under a strategy where TF_USE_LEGACY_KERAS=1 makes `tf.keras` Keras 2."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

strategy = poseidon_tf.PoseidonStrategy(show_plan="none")
random = np.random.default_rng(1)
x = random.normal(size=(32, 4)).astype("float32")
y = x[:, :1]


def fit(model: Any) -> list[float]:
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [float(number) for weight in model.get_weights() for number in weight.ravel()]


def net(version: Any) -> Any:
    version.utils.set_random_seed(3)
    model = version.Sequential(
        [version.layers.InputLayer((4,)), version.layers.Dense(3), version.layers.Dense(1)]
    )
    model.compile(version.optimizers.SGD(0.1), "mse")
    return model


def lazily_built() -> None:
    """Has no weight before its first step, and its initializers are no objects of Keras 2."""
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(1, kernel_initializer=zeros, bias_initializer=zeros)]
    )
    model.compile(None, "mse")
    fit(model)


def zeros(shape: Any, dtype: Any = None) -> tf.Tensor:
    return tf.zeros(shape, dtype)


def counted() -> float:
    """What a metric of Keras 2 gives that counts ones in replicas."""
    metric = tf.keras.metrics.Sum()

    @tf.function
    def count() -> None:
        metric.update_state(tf.ones(3))

    strategy.run(count)
    return float(metric.result())


def refusal(build: Callable[[], Any]) -> str:
    try:
        with strategy.scope():
            build()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


with strategy.scope():
    of_keras_three = net(keras)
result("keras-three", fit(of_keras_three))
result("tf.keras", tf.keras.Model.__module__)
result("model", refusal(lambda: net(tf.keras)))
result("optimizer", refusal(lambda: tf.keras.optimizers.SGD(0.1)))
result("legacy-optimizer", refusal(lambda: tf.keras.optimizers.legacy.SGD(0.1).iterations))
result("lazily-built", refusal(lazily_built))
with strategy.scope():
    result("metric", counted())
result("outside", fit(net(tf.keras)))
