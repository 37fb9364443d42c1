"""Floating point operations of a step that is still being traced, for a batch that is left open.

TensorFlow's profiler counts nothing where a shape is not known. So products are counted here, with
the rows of a batch in place of what is open. All else takes no time: it is little beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from poseidon_tf.strategy.graph.shares import StepShares, shares_of_operations

# By type of a convolution: which tensor has the filter's shape, and which that of the output.
_CONVOLUTIONS = {
    "Conv2D": ("input 1", "output 0"),
    "Conv3D": ("input 1", "output 0"),
    "Conv2DBackpropInput": ("input 1", "input 2"),
    "Conv3DBackpropInputV2": ("input 1", "input 2"),
    "Conv2DBackpropFilter": ("output 0", "input 2"),
    "Conv3DBackpropFilterV2": ("output 0", "input 2"),
}


def shares_of_trace(
    graph: Any, variables: Mapping[str, Any], gradients: Mapping[str, Any], *, rows: int
) -> StepShares:
    """See `shares_of_step`.

    Args:
      graph: in which the gradients have just been made.
      rows: of a replica's batch.
    """
    operations = graph.get_operations()
    work = [flops_of(operation, rows=rows) for operation in operations]
    return shares_of_operations(operations, work, graph.captures, variables, gradients)


def flops_of(operation: Any, *, rows: int) -> int:
    """Of a product or a convolution; 0 of anything else, and where a rank is not known."""
    try:
        if operation.type in ("MatMul", "BatchMatMulV2", "BatchMatMulV3"):
            columns: int = operation.outputs[0].shape.as_list()[-1] or rows
            return 2 * _elements(operation.inputs[0], rows) * columns
        if operation.type == "Einsum":
            return _of_einsum(operation, rows)
        if operation.type in _CONVOLUTIONS:
            kernel, output = (_tensor(operation, which) for which in _CONVOLUTIONS[operation.type])
            shape = kernel.shape.as_list()
            return 2 * _elements(output, rows) * int(math.prod(dim or 1 for dim in shape[:-1]))
    except ValueError:  # That is how TensorFlow says that a rank is not known.
        return 0
    return 0


def _tensor(operation: Any, which: str) -> Any:
    side, _, at = which.partition(" ")
    return (operation.inputs if side == "input" else operation.outputs)[int(at)]


def _elements(tensor: Any, rows: int) -> int:
    """How many numbers it has; as many as before it was given a shape that hides the batch."""
    while tensor.op.type == "Reshape" and tensor.op.inputs[0].shape.rank is not None:
        tensor = tensor.op.inputs[0]
    return int(math.prod(dim or rows for dim in tensor.shape.as_list()))


def _of_einsum(operation: Any, rows: int) -> int:
    terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
    sizes = {
        label: size or rows
        for term, tensor in zip(terms, operation.inputs, strict=True)
        for label, size in zip(term, tensor.shape.as_list(), strict=False)
    }
    return 2 * math.prod(sizes.values())
