"""What the networks of the paper are made of: layer after layer, from the input to the output.

Branches (Inception) and shortcuts (ResNet) are laid out one after the other: every gradient still
exists after those of the layers above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BIAS = ("bias",)


@dataclass(frozen=True, slots=True)
class Layer:
    """One kernel and the vectors beside it.

    Attributes:
      kind: "conv", with a kernel (height, width, in, out), or "dense", with (in, out).
      vectors: names of the vectors, each as long as the kernel's last side.
      flops: of the forward pass of one sample; a multiplication and an addition are two.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    vectors: tuple[str, ...]
    flops: int

    @property
    def num_parameters(self) -> int:
        return math.prod(self.kernel) + len(self.vectors) * self.kernel[-1]


def vgg16() -> list[Layer]:
    """Simonyan and Zisserman's network D on 224 x 224."""
    return _vgg(3, num_classes=1000)


def vgg19(num_classes: int = 1000) -> list[Layer]:
    """Simonyan and Zisserman's network E on 224 x 224."""
    return _vgg(4, num_classes)


def _vgg(deep: int, num_classes: int) -> list[Layer]:
    """With `deep` convolutions in each of the upper three stages."""
    layers, channels = [], 3
    stages = [(224, 64, 2), (112, 128, 2), (56, 256, deep), (28, 512, deep), (14, 512, deep)]
    for stage, (size, width, count) in enumerate(stages, start=1):
        for at in range(1, count + 1):
            layers.append(_conv(f"conv{stage}_{at}", size, 3, 3, channels, width))
            channels = width
    return layers + _dense_layers([7 * 7 * 512, 4096, 4096, num_classes], first=6)


def alexnet() -> list[Layer]:
    """AlexNet in one tower, as in Krizhevsky's "One weird trick": 61.1 M parameters."""
    widths = [(55, 11, 64), (27, 5, 192), (13, 3, 384), (13, 3, 256), (13, 3, 256)]
    layers, channels = [], 3
    for at, (size, side, width) in enumerate(widths, start=1):
        layers.append(_conv(f"conv{at}", size, side, side, channels, width))
        channels = width
    return layers + _dense_layers([6 * 6 * 256, 4096, 4096, 1000], first=6)


def googlenet() -> list[Layer]:
    """Inception v1 without its auxiliary classifiers."""
    layers = [
        _conv("conv1", 112, 7, 7, 3, 64),
        _conv("conv2_reduce", 56, 1, 1, 64, 64),
        _conv("conv2", 56, 3, 3, 64, 192),
    ]
    channels = 192
    # Output size; widths of the branches 1x1, 3x3 (reduced, full), 5x5 (reduced, full), pooled.
    blocks = {
        "3a": (28, 64, 96, 128, 16, 32, 32),
        "3b": (28, 128, 128, 192, 32, 96, 64),
        "4a": (14, 192, 96, 208, 16, 48, 64),
        "4b": (14, 160, 112, 224, 24, 64, 64),
        "4c": (14, 128, 128, 256, 24, 64, 64),
        "4d": (14, 112, 144, 288, 32, 64, 64),
        "4e": (14, 256, 160, 320, 32, 128, 128),
        "5a": (7, 256, 160, 320, 32, 128, 128),
        "5b": (7, 384, 192, 384, 48, 128, 128),
    }
    for block, (size, one, reduce3, three, reduce5, five, pooled) in blocks.items():
        layers += [
            _conv(f"{block}_1x1", size, 1, 1, channels, one),
            _conv(f"{block}_3x3_reduce", size, 1, 1, channels, reduce3),
            _conv(f"{block}_3x3", size, 3, 3, reduce3, three),
            _conv(f"{block}_5x5_reduce", size, 1, 1, channels, reduce5),
            _conv(f"{block}_5x5", size, 5, 5, reduce5, five),
            _conv(f"{block}_pool", size, 1, 1, channels, pooled),
        ]
        channels = one + three + five + pooled
    return layers + _dense_layers([channels, 1000])


def inception_v3() -> list[Layer]:
    """Inception v3 on 299 x 299: convolutions without bias, a normalization without scale."""
    layers: list[Layer] = []

    def branch(name: str, channels: int, *steps: tuple[int, int, int, int]) -> int:
        """Convolutions in a row, each (output size, height, width, out)."""
        for at, (size, height, width, out) in enumerate(steps):
            step = f"{name}_{at}"
            layers.append(_conv(step, size, height, width, channels, out, vectors=("beta",)))
            channels = out
        return channels

    branch("stem", 3, (149, 3, 3, 32), (147, 3, 3, 32), (147, 3, 3, 64), (73, 1, 1, 80))
    channels = branch("stem_top", 80, (71, 3, 3, 192))
    for block, pooled in enumerate((32, 64, 64)):
        ways = [
            branch(f"mixed{block}_1x1", channels, (35, 1, 1, 64)),
            branch(f"mixed{block}_5x5", channels, (35, 1, 1, 48), (35, 5, 5, 64)),
            branch(f"mixed{block}_3x3", channels, (35, 1, 1, 64), (35, 3, 3, 96), (35, 3, 3, 96)),
            branch(f"mixed{block}_pool", channels, (35, 1, 1, pooled)),
        ]
        channels = sum(ways)
    ways = [
        branch("mixed3_3x3", channels, (17, 3, 3, 384)),
        branch("mixed3_double", channels, (35, 1, 1, 64), (35, 3, 3, 96), (17, 3, 3, 96)),
    ]
    channels += sum(ways)
    for block, inner in enumerate((128, 160, 160, 192), start=4):
        wide, tall = (17, 1, 7, inner), (17, 7, 1, inner)
        first = (17, 1, 1, inner)
        ways = [
            branch(f"mixed{block}_1x1", channels, (17, 1, 1, 192)),
            branch(f"mixed{block}_7x7", channels, first, wide, (17, 7, 1, 192)),
            branch(f"mixed{block}_double", channels, first, tall, wide, tall, (17, 1, 7, 192)),
            branch(f"mixed{block}_pool", channels, (17, 1, 1, 192)),
        ]
        channels = sum(ways)
    first = (17, 1, 1, 192)
    ways = [
        branch("mixed8_3x3", channels, first, (8, 3, 3, 320)),
        branch("mixed8_7x7", channels, first, (17, 1, 7, 192), (17, 7, 1, 192), (8, 3, 3, 192)),
    ]
    channels += sum(ways)
    for block in (9, 10):
        ways = [branch(f"mixed{block}_1x1", channels, (8, 1, 1, 320))]
        for name, steps in (
            ("3x3", [(8, 1, 1, 384)]),
            ("double", [(8, 1, 1, 448), (8, 3, 3, 384)]),
        ):
            inner = branch(f"mixed{block}_{name}", channels, *steps)
            ways.append(branch(f"mixed{block}_{name}_wide", inner, (8, 1, 3, 384)))
            ways.append(branch(f"mixed{block}_{name}_tall", inner, (8, 3, 1, 384)))
        ways.append(branch(f"mixed{block}_pool", channels, (8, 1, 1, 192)))
        channels = sum(ways)
    return layers + _dense_layers([channels, 1000])


def resnet152() -> list[Layer]:
    """ResNet-152 v1, as Keras has it: convolutions with bias, then a normalization."""
    return _resnet([3, 8, 36, 3])


def resnet50() -> list[Layer]:
    """ResNet-50 v1, alike."""
    return _resnet([3, 4, 6, 3])


def _resnet(blocks_of_stages: list[int]) -> list[Layer]:
    vectors = ("bias", "gamma", "beta")
    layers = [_conv("conv1", 112, 7, 7, 3, 64, vectors=vectors)]
    channels = 64
    for stage, blocks in enumerate(blocks_of_stages, start=2):
        size, width = 224 // 2**stage, 16 * 2**stage
        for block in range(1, blocks + 1):
            sides = [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            if block == 1:
                sides.insert(0, (1, channels, 4 * width))  # The shortcut.
            for at, (side, inputs, outputs) in enumerate(sides):
                name = f"conv{stage}_{block}_{at}"
                layers.append(_conv(name, size, side, side, inputs, outputs, vectors=vectors))
            channels = 4 * width
    return layers + _dense_layers([channels, 1000])


def _conv(
    name: str,
    size: int,
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    *,
    vectors: tuple[str, ...] = BIAS,
) -> Layer:
    """A convolution whose output is `size` x `size`."""
    kernel = (height, width, inputs, outputs)
    return Layer(name, "conv", kernel, vectors, 2 * math.prod(kernel) * size * size)


def _dense_layers(sides: list[int], *, first: int = 1) -> list[Layer]:
    return [
        Layer(f"fc{at}", "dense", (inputs, outputs), BIAS, 2 * inputs * outputs)
        for at, (inputs, outputs) in enumerate(zip(sides, sides[1:], strict=False), start=first)
    ]
