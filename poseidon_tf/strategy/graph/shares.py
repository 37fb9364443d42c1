"""Which part of a traced step is over when a variable is read, or when its gradient exists.

Parts are of the step's arithmetic, as TensorFlow's profiler counts it from the shapes, in the order
in which the operations were traced. What loops and branches do inside is not counted: they take no
time here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from poseidon_tf.strategy.logged import counting_operations


class StepShares(NamedTuple):
    """Of one step.

    Attributes:
      flops: floating point operations; 0 where they are not known.
      needed: by variable, what part of the step is over when it is first read; 0 to 1.
      exists: by variable, what part of the step is over when its gradient exists; 0 to 1.
    """

    flops: int
    needed: dict[str, float]
    exists: dict[str, float]


def shares_of_step(
    traced: Any, variables: Mapping[str, Any], gradients: Mapping[str, Any]
) -> StepShares:
    """When the step reads each variable, and when each gradient exists.

    Args:
      traced: a concrete function whose shapes are known.
      variables: by name, those that it captures.
      gradients: by name, tensors or `tf.IndexedSlices` of its graph.
    """
    operations = traced.graph.get_operations()
    flops = _flops(traced.graph)
    work = [flops.get(operation.name) or _einsum_flops(operation) for operation in operations]
    captured = traced.captured_inputs
    inside = traced.inputs[len(traced.inputs) - len(captured) :]
    return shares_of_operations(
        operations, work, zip(captured, inside, strict=True), variables, gradients
    )


def shares_of_operations(
    operations: Sequence[Any],
    work: Sequence[int],
    captured: Iterable[tuple[Any, Any]],
    variables: Mapping[str, Any],
    gradients: Mapping[str, Any],
) -> StepShares:
    """The same, of a step's operations in order.

    Args:
      work: floating point operations of each.
      captured: what the step's graph takes from outside, and what that is called inside.
    """
    step_flops = sum(work)
    if not step_flops:  # No shape is known, or nothing is multiplied: all take as long.
        work = [1] * len(work)
    total = sum(work)
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    readers: dict[int, float] = {}
    done = 0
    for operation, own in zip(operations, work, strict=True):
        before[operation.name] = done / total
        for tensor in operation.inputs:
            readers.setdefault(id(tensor), before[operation.name])
        done += own
        after[operation.name] = done / total
    inputs = {id(outside): inside for outside, inside in captured}
    needed = {
        name: readers.get(id(inputs.get(id(variable.handle))), 0.0)
        for name, variable in variables.items()
    }
    exists = {
        name: after.get(_values(gradient).op.name, 1.0) for name, gradient in gradients.items()
    }
    return StepShares(step_flops, needed, exists)


def _values(gradient: Any) -> Any:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _einsum_flops(operation: Any) -> int:
    """Of an Einsum, as attention has it, which the profiler does not count; 0 of any other."""
    if operation.type != "Einsum":
        return 0
    terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
    sizes = {
        label: size or 0
        for term, tensor in zip(terms, operation.inputs, strict=True)
        for label, size in zip(term, tensor.shape, strict=False)
    }
    return 2 * math.prod(sizes.values())


def _flops(graph: Any) -> dict[str, int]:
    """By name of an operation; those of which TensorFlow does not know are left out."""
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    with counting_operations():
        root = profiler.profile(graph, options=options.with_empty_output().build(), cmd="scope")
    found = {}
    nodes = [root]
    while nodes:
        node = nodes.pop()
        found[str(node.name)] = int(node.float_ops)
        nodes += node.children
    return found
