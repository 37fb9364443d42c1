"""The nets that benchmarks train, as data, and built alike with any Keras or with PyTorch.

Imports neither: a worker hands in the library of its own virtual environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Conv:
    """A convolution that keeps the image's size but for its strides, and ReLU."""

    filters: int
    size: int
    strides: int = 1


@dataclass(frozen=True)
class Pool:
    """The largest of every 2x2."""


@dataclass(frozen=True)
class Net:
    """Convolutions on an image, or none on a vector, then dense layers with ReLU between them.

    Args:
      input_shape: (height, width, channels), or (length,).
    """

    input_shape: tuple[int, ...]
    dense: tuple[int, ...]
    convolutions: tuple[Conv | Pool, ...] = ()


NETS = {
    # 20.0 M parameters.
    "mlp": Net(input_shape=(784,), dense=(4096, 4096, 10)),
    # 12.8 M parameters, nearly all in two dense layers, as in AlexNet; about as much arithmetic
    # in the convolutions as in one of them.
    "alexnet": Net(
        input_shape=(32, 32, 3),
        convolutions=(
            Conv(32, size=5, strides=2),
            Pool(),
            Conv(64, size=3),
            Pool(),
            Conv(96, size=3),
            Conv(128, size=3),
        ),
        dense=(3072, 2048, 10),
    ),
    # What a byte costs, and what a message does: of few large gradients, and of many small ones.
    "wide": Net(input_shape=(1024,), dense=(2048, 2048, 10)),
    "many": Net(input_shape=(16,), dense=(16,) * 12),
    # Small square layers: with many rows their factors have more bytes than their gradients.
    "narrow": Net(input_shape=(32,), dense=(32, 32, 32, 32)),
    "square": Net(input_shape=(512,), dense=(512, 512, 512, 512)),
    # Of the tests.
    "tiny": Net(
        input_shape=(8, 8, 3), convolutions=(Conv(4, size=3), Pool()), dense=(256, 128, 10)
    ),
}


def random_batch(net: Net, *, rows: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, the same in every system, others on every rank."""
    generator = np.random.default_rng(rank)
    inputs = generator.standard_normal((rows, *net.input_shape), np.float32)
    return inputs, generator.integers(net.dense[-1], size=rows)


def keras_net(keras: Any, name: str) -> Any:
    """`NETS[name]`, compiled. Its dense layers are `<name>_dense0` and up."""
    net, layers = NETS[name], keras.layers
    stack = [keras.Input(net.input_shape)]
    for layer in net.convolutions:
        if isinstance(layer, Pool):
            stack.append(layers.MaxPooling2D())
        else:
            shape = {"strides": layer.strides, "padding": "same"}
            stack.append(layers.Conv2D(layer.filters, layer.size, **shape, activation="relu"))
    stack.append(layers.Flatten())
    last = len(net.dense) - 1
    for index, units in enumerate(net.dense):
        activation = None if index == last else "relu"
        stack.append(layers.Dense(units, activation=activation, name=f"{name}_dense{index}"))
    model = keras.Sequential(stack, name=name)
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def torch_net(torch: Any, name: str) -> Any:
    """`NETS[name]`, channels first."""
    net, nn = NETS[name], torch.nn
    *size, values = net.input_shape
    stack = []
    for layer in net.convolutions:
        if isinstance(layer, Pool):
            stack.append(nn.MaxPool2d(2))
            size = [side // 2 for side in size]
        else:
            shape = {"stride": layer.strides, "padding": layer.size // 2}
            stack += [nn.Conv2d(values, layer.filters, layer.size, **shape), nn.ReLU()]
            size, values = [side // layer.strides for side in size], layer.filters
    stack.append(nn.Flatten())
    values *= int(np.prod(size))
    for units in net.dense:
        stack += [nn.Linear(values, units), nn.ReLU()]
        values = units
    return nn.Sequential(*stack[:-1])
