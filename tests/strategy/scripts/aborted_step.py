"""Steps that an error ends after a contribution has left, in a script that catches it and goes on.

First rank 0's step of a custom loop, while rank 1 has not begun it; then the first step of a `fit`
that defers its updates, on all workers.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.session.session import Route

has_left = threading.Event()
push = Route.push


def push_and_tell(self: Route, arrays: Sequence[Any], *args: Any, **kwargs: Any) -> int:
    step = push(self, arrays, *args, **kwargs)
    if self.name.startswith("all_reduce") or "top/kernel" in self.name:
        has_left.set()
    return step


Route.push = push_and_tell  # type: ignore[method-assign]
strategy = poseidon_tf.PoseidonStrategy(schemes={"*": "ps"}, coalesce_bytes=0, defer_updates=True)


def fail_once(value: np.ndarray) -> np.ndarray:
    """Fails the step once a contribution has left."""
    if fails:
        assert has_left.wait(60)
        fails.clear()
        raise ValueError("the batch is bad")
    return value


def caught(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    try:
        call(*args, **kwargs)
    except (tf.errors.InvalidArgumentError, poseidon_tf.PoseidonError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@tf.function
def summed(x: tf.Tensor) -> Any:
    def in_replica() -> tuple[Any, Any]:
        total = tf.distribute.get_replica_context().all_reduce("sum", x)
        return total, tf.numpy_function(fail_once, [x], x.dtype)

    return strategy.run(in_replica)


class Failing(keras.layers.Layer):
    """Its gradient fails when those of the layers above it have left."""

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def failing(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                same = tf.numpy_function(fail_once, [upstream], upstream.dtype, stateful=False)
                same.set_shape(upstream.shape)
                return same

            return tf.identity(x), gradient

        return failing(inputs)


fails = ["once"]
if strategy.rank == 1:
    strategy.barrier()  # Rank 0's step is over.
    fails.clear()
result("loop", caught(summed, tf.ones([3])))
if strategy.rank == 0:
    strategy.barrier()
result("loop_goes_on", caught(summed, tf.ones([3])))

with strategy.scope():
    low, top = keras.layers.Dense(8, name="low"), keras.layers.Dense(1, name="top")
    model = keras.Sequential([keras.Input((8,)), low, Failing(), top])
    model.compile("sgd", "mse")
x, y = np.ones((16, 8), "float32"), np.ones((16, 1), "float32")
has_left.clear()
fails.append("once")
result("fit", caught(model.fit, x, y, 4, verbose=0))
result("fit_goes_on", caught(model.fit, x, y, 4, verbose=0))
