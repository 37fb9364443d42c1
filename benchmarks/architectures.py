"""The networks of the paper as one worker trains them, and what becomes of them at scale S.

Pure: this file and `layers` know no TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from layers import Layer, alexnet, googlenet, inception_v3, resnet50, resnet152, vgg19

FORWARD_SHARE = 1 / 3
"""Of a layer's time; the backward pass makes two products where the forward pass makes one."""


@dataclass(frozen=True, slots=True)
class Net:
    """A network as one worker trains it.

    Attributes:
      batch: samples of one worker's step.
      device_s: seconds that one worker's accelerator computes per step.
    """

    name: str
    batch: int
    device_s: float
    layers: tuple[Layer, ...]

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """Of the forward pass of one sample."""
        return sum(layer.flops for layer in self.layers)

    @property
    def dense_share(self) -> float:
        """What part of the parameters is in dense layers."""
        dense = sum(layer.num_parameters for layer in self.layers if layer.kind == "dense")
        return dense / self.num_parameters

    def time_share(self, layer: Layer) -> float:
        """What part of a step `layer` takes: as much as it has of the work."""
        return layer.flops / self.flops

    def weight_gradient_s(self, layer: Layer) -> float:
        """Half of the layer's backward time; the other half goes to its input's gradient."""
        return self.device_s * self.time_share(layer) * (1 - FORWARD_SHARE) / 2


def net(name: str) -> Net:
    """The network `name` of `NETS`.

    VGG19-22K's step takes what the paper says, AlexNet's what the talk says. The others' take as
    long per FLOP as VGG19-22K's.
    """
    if name not in NETS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETS)}")
    layers_of, batch, device_s = NETS[name]
    layers = tuple(layers_of())
    if device_s is None:
        model_of, model_batch, model_s = NETS["vgg19-22k"]
        assert model_s is not None
        model_flops = model_batch * sum(layer.flops for layer in model_of())
        device_s = model_s * batch * sum(layer.flops for layer in layers) / model_flops
    return Net(name, batch, device_s, layers)


def scaled(layer: Layer, scale: int) -> tuple[int, ...]:
    """The kernel's shape with its channels, or both sides of a dense one, divided by `scale`."""
    spatial = layer.kernel[:-2]
    return (*spatial, *(math.ceil(side / scale) for side in layer.kernel[-2:]))


def scaled_batch(net: Net, scale: int) -> int:
    """Samples of one worker's batch: K of the dense layers."""
    return math.ceil(net.batch / scale)


def bytes_ratio(net: Net, scale: int) -> float:
    """Parameters of the emulated network times S^2, over those of the real one.

    Vectors, and sides that `scale` does not divide, make it more than 1.
    """
    emulated = sum(
        math.prod(scaled(layer, scale)) + len(layer.vectors) * scaled(layer, scale)[-1]
        for layer in net.layers
    )
    return emulated * scale**2 / net.num_parameters


# Layers, batch of one worker, seconds of a step where a source gives them.
NETS: dict[str, tuple[Callable[[], list[Layer]], int, float | None]] = {
    "vgg19-22k": (lambda: vgg19(21841), 32, 0.925),
    "vgg19": (vgg19, 32, None),
    "alexnet": (alexnet, 256, 0.25),
    "googlenet": (googlenet, 128, None),
    "inception-v3": (inception_v3, 32, None),
    "resnet-152": (resnet152, 32, None),
    "resnet-50": (resnet50, 32, None),
}
