"""A network whose computation takes as long as on a given accelerator, but needs next to no CPU.

Every layer has real variables and real gradients, of sides divided by the scale S; so have the
batch and the factors. Bytes are then 1/S^2 of the network's. Around each layer the emulated
accelerator takes the layer's share of the device's time: a third of it forward, and two thirds
backward before the layer's gradients exist. It sleeps, so many workers share few cores.

What leaves as one, and what the kernel and a lane hold of a link's bytes, cannot be overtaken. It
does not depend on the network, so it would be S^2 times as much of the emulated one: pieces,
packets and a lane's own part are smaller too. What gRPC holds is what it is.

A layer begins its forward pass when the layer below has ended and its own variables are there.
Where they are updated at the beginning of a step, that is when their sums have come and Keras has
made the update; the layers below have run meanwhile.

Works with keras and tf_keras, whichever module it is given.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any, final

import numpy as np
import tensorflow as tf
from architectures import FORWARD_SHARE, Net, scaled, scaled_batch
from layers import Layer

_INPUT_WIDTH = 8


@final
class Accelerator:
    """Does one thing at a time, in the order in which it is given work, and only takes time.

    Attributes:
      queues: a layer in a chain begins when the one before it ended, as on an accelerator that is
        given the next layer before it has finished the last, or when its variables are there if
        that is later. Otherwise it begins when the host gets to it, so that what the host does
        between two layers, and what keeps it from doing it, adds to the step.
    """

    def __init__(self) -> None:
        self.queues = False
        self._lock = threading.Lock()
        self._free_s = 0.0
        # TensorFlow's timestamps are of the other clock.
        self._clocks_differ_s = time.time() - time.perf_counter()

    @property
    def busy_until_s(self) -> float:
        """When all that it was given ends, by the clock of `tf.timestamp`."""
        return self._free_s + self._clocks_differ_s

    def work_after(
        self,
        tensor: tf.Tensor,
        seconds: float,
        *,
        chained: bool,
        variables_there: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`tensor`, `seconds` of work after it exists.

        Args:
          chained: after the layer before it.
          variables_there: a `tf.timestamp` of when all that this layer reads was there.
        """

        def work(_: Any, there: Any) -> Any:
            there_s = float(there) - self._clocks_differ_s
            self._work(seconds, follows=chained and self.queues, there_s=there_s)
            return np.float32(0)

        # One element is enough to wait for all of them. The result is added, and its value is not
        # known to the graph's optimizer: otherwise the function would be pruned or folded away.
        one = tf.reshape(tensor, [-1])[0]
        there = tf.constant(0.0, tf.float64) if variables_there is None else variables_there
        zero = tf.numpy_function(work, [one, there], tf.float32, stateful=False)
        return tensor + tf.ensure_shape(zero, [])

    def _work(self, seconds: float, *, follows: bool, there_s: float) -> None:
        with self._lock:
            begin_s = max(self._free_s, there_s if follows else time.perf_counter())
            self._free_s = end_s = begin_s + seconds
        time.sleep(max(0.0, end_s - time.perf_counter()))


def build_model(
    keras: Any,
    net: Net,
    accelerator: Accelerator,
    *,
    scale: int,
    device_s: float,
    name: str,
    dense_suffix: str = "",
) -> Any:
    """The emulated `net`.

    Args:
      device_s: what a step of one worker takes on `accelerator`.
      dense_suffix: ends the names of dense layers; those of convolutions end with `_by_ps`.
    """
    layer_class = _layer_class(keras)
    layers = [keras.Input((_INPUT_WIDTH,))]
    for position, layer in enumerate(net.layers):
        suffix = "_by_ps" if layer.kind == "conv" else dense_suffix
        layers.append(
            layer_class(
                layer,
                accelerator,
                scale=scale,
                seconds=device_s * net.time_share(layer),
                is_first=position == 0,
                name=f"{layer.name}{suffix}",
            )
        )
    return keras.Sequential(layers, name=name)


def build_dataset(net: Net, *, scale: int, num_workers: int) -> tf.data.Dataset:
    """The same batch, of all workers together, without end."""
    rows = scaled_batch(net, scale) * num_workers
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, _INPUT_WIDTH)).astype(np.float32)
    y = random.normal(size=(rows, scaled(net.layers[-1], scale)[-1])).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(rows, drop_remainder=True)
    options = tf.data.Options()
    # Every worker makes the whole batch and takes its rows of it: there is no file to divide.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _layer_class(keras: Any) -> Any:
    class EmulatedLayer(keras.layers.Layer):
        """One `Layer`: its variables, its gradients and its time."""

        def __init__(
            self,
            layer: Layer,
            accelerator: Accelerator,
            *,
            scale: int,
            seconds: float,
            is_first: bool,
            name: str,
        ) -> None:
            super().__init__(name=name)
            self._layer, self._accelerator = layer, accelerator
            self._shape = scaled(layer, scale)
            self._seconds, self._is_first = seconds, is_first

        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(
                name="kernel", shape=self._shape, initializer="glorot_uniform"
            )
            self.vectors = [
                self.add_weight(
                    name=name,
                    shape=self._shape[-1:],
                    initializer="ones" if name == "gamma" else "zeros",
                )
                for name in self._layer.vectors
            ]
            self.built = True

        def call(self, x: Any) -> Any:
            *spatial, inputs, outputs = self._shape
            x = _with_width(x, math.prod(spatial) * inputs)
            kernel, *vectors = (tf.convert_to_tensor(v) for v in (self.kernel, *self.vectors))
            with tf.control_dependencies([kernel, *vectors]):
                variables_there = tf.timestamp()
            if self._layer.kind == "dense":
                y = tf.matmul(x, kernel)
            else:
                # As large as the kernel, so that the output is one pixel.
                image = tf.reshape(x, [-1, *spatial, inputs])
                y = tf.nn.conv2d(image, kernel, 1, "VALID")
                y = tf.reshape(y, [-1, outputs])
            for name, vector in zip(self._layer.vectors, vectors, strict=True):
                y = y * vector if name == "gamma" else tf.nn.bias_add(y, vector)
            # Bounded, however many layers there are.
            return tf.tanh(self._paced(y, variables_there))

        def _paced(self, y: tf.Tensor, variables_there: tf.Tensor) -> tf.Tensor:
            forward_s = self._seconds * FORWARD_SHARE
            backward_s = self._seconds - forward_s

            @tf.custom_gradient
            def paced(y: tf.Tensor) -> Any:
                def gradient(dy: tf.Tensor) -> tf.Tensor:
                    return self._accelerator.work_after(dy, backward_s, chained=True)

                # The first layer begins when the step does, not where the last step ended.
                chained = not self._is_first
                after = self._accelerator.work_after(
                    y, forward_s, chained=chained, variables_there=variables_there
                )
                return after, gradient

            return paced(y)

    return EmulatedLayer


def _with_width(x: tf.Tensor, width: int) -> tf.Tensor:
    """`x` repeated, or cut, to `width` columns."""
    if x.shape[1] == width:
        return x
    return tf.tile(x, [1, math.ceil(width / x.shape[1])])[:, :width]
