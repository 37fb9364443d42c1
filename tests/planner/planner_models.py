"""Shapes of well-known models, as the planner sees them."""

from poseidon_tf.planner import VariableSpec


def dense(
    name: str, num_inputs: int, num_outputs: int, rows: int | None = 32, dtype: str = "float32"
) -> list[VariableSpec]:
    kernel = VariableSpec(
        name=f"{name}/kernel",
        shape=(num_inputs, num_outputs),
        dtype=dtype,
        factors=(num_inputs, num_outputs),
        rows=rows,
    )
    bias = VariableSpec(name=f"{name}/bias", shape=(num_outputs,), dtype=dtype, bias_of=kernel.name)
    return [kernel, bias]


def plain(
    name: str, *shape: int, dtype: str = "float32", why_not: str = "no product"
) -> VariableSpec:
    return VariableSpec(name=name, shape=shape, dtype=dtype, why_not=why_not)


def conv(name: str, size: int, num_inputs: int, num_outputs: int) -> list[VariableSpec]:
    return [
        plain(f"{name}/kernel", size, size, num_inputs, num_outputs, why_not="a convolution"),
        plain(f"{name}/bias", num_outputs),
    ]


def conv_bn(name: str, size: int, num_inputs: int, num_outputs: int) -> list[VariableSpec]:
    return [
        plain(f"{name}/kernel", size, size, num_inputs, num_outputs, why_not="a convolution"),
        plain(f"{name}/gamma", num_outputs),
        plain(f"{name}/beta", num_outputs),
    ]


def alexnet() -> list[VariableSpec]:
    """61.0 M parameters: the published model, with convolutions 2, 4 and 5 in two groups."""
    return [
        *conv("conv1", 11, 3, 96),
        *conv("conv2", 5, 48, 256),
        *conv("conv3", 3, 256, 384),
        *conv("conv4", 3, 192, 384),
        *conv("conv5", 3, 192, 256),
        *dense("fc6", 9216, 4096),
        *dense("fc7", 4096, 4096),
        *dense("fc8", 4096, 1000),
    ]


def vgg19_22k() -> list[VariableSpec]:
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    layers = [
        variable
        for at, (num_inputs, num_outputs) in enumerate(zip(widths, widths[1:], strict=False))
        for variable in conv(f"conv{at}", 3, num_inputs, num_outputs)
    ]
    return [
        *layers,
        *dense("fc6", 25088, 4096),
        *dense("fc7", 4096, 4096),
        *dense("fc8", 4096, 21841),
    ]


def resnet50() -> list[VariableSpec]:
    """25.6 M parameters in 161 variables, most of them small."""
    variables = conv_bn("stem", 7, 3, 64)
    num_inputs = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            variables += conv_bn(f"{name}/a", 1, num_inputs, width)
            variables += conv_bn(f"{name}/b", 3, width, width)
            variables += conv_bn(f"{name}/c", 1, width, 4 * width)
            if block == 0:
                variables += conv_bn(f"{name}/shortcut", 1, num_inputs, 4 * width)
            num_inputs = 4 * width
    return variables + dense("fc", 2048, 1000)


def lstm() -> list[VariableSpec]:
    return [
        plain("embedding", 10_000, 650),
        *[
            variable
            for layer in ("lstm1", "lstm2")
            for variable in (
                plain(f"{layer}/kernel", 650, 2600),
                plain(f"{layer}/recurrent", 650, 2600),
                plain(f"{layer}/bias", 2600),
            )
        ],
        *dense("softmax", 650, 10_000, rows=32 * 35),
    ]


def digits_convnet() -> list[VariableSpec]:
    """About 100 k parameters: 400 KB over up to 32 servers."""
    return [
        *conv("conv1", 3, 1, 16),
        *conv("conv2", 3, 16, 32),
        *dense("fc1", 512, 184),
        *dense("fc2", 184, 10),
    ]
