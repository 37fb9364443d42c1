"""The nets on which overhead shows: a plain one, and one of many small variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

WIDTH = 64
# As sizes of a ResNet's smaller variables: 64 to 4096 values.
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Gain(keras.layers.Layer):
    """Multiplies by one plus the mean row of its only variable: next to no arithmetic.

    Its gradient is no product of two factors, so a parameter server sums it.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def build(self, input_shape: Any) -> None:
        self.gain = self.add_weight(shape=(self._rows, WIDTH), initializer="zeros", name="gain")

    def call(self, inputs: Any) -> Any:
        return inputs * (1.0 + keras.ops.mean(self.gain, axis=0))


def mlp(units: Sequence[int]) -> keras.Model:
    """Dense layers from `units[0]` inputs on, ReLU between them."""
    *hidden, last = units[1:]
    layers = [keras.layers.Dense(width, activation="relu") for width in hidden]
    model = keras.Sequential([keras.Input((units[0],)), *layers, keras.layers.Dense(last)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def chain(num_variables: int) -> keras.Model:
    """As many layers as variables, one after the other."""
    layers = [Gain(_ROWS[index % len(_ROWS)]) for index in range(num_variables)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def random_batch(model: keras.Model, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the model's shapes."""
    rng = np.random.default_rng(0)
    shapes = ((rows, model.input_shape[-1]), (rows, model.output_shape[-1]))
    inputs, targets = (rng.normal(size=shape).astype("float32") for shape in shapes)
    return inputs, targets
