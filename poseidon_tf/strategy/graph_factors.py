"""Reads a traced step: which gradients are one product of two factors, and how many rows they have.

The gradient of a dense kernel is `MatMul(U, V, transpose_a=True)` in the graph, that of its bias
the column sum of the same V. Operations that change no value are looked through. Whatever else
stands between the product and the optimizer makes it something other than one product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from poseidon_tf.planner import VariableSpec

_SAME_VALUE = frozenset({"Identity", "StopGradient", "Reshape"})


@dataclass(frozen=True, slots=True)
class Factors:
    """U of shape (K, M) and V of shape (K, N), as tensors of the traced step."""

    U_KM: tf.Tensor
    V_KN: tf.Tensor

    @property
    def sides(self) -> tuple[int, int]:
        """M and N."""
        return int(self.U_KM.shape[1]), int(self.V_KN.shape[1])


def densified(gradients: Sequence[tf.Tensor | tf.IndexedSlices]) -> list[tf.Tensor]:
    """Sparse rows as the dense table that they add to; everything else as it is."""
    return [
        tf.convert_to_tensor(each) if isinstance(each, tf.IndexedSlices) else each
        for each in gradients
    ]


def find_factors(gradient: tf.Tensor) -> Factors | str:
    """The factors of a kernel's gradient, or why it has none that this file can see."""
    if isinstance(gradient, tf.IndexedSlices):
        return "sparse rows"
    if not hasattr(gradient, "graph"):
        return "eager gradients have no graph to read factors from"
    source = source_of(gradient)
    if source.op.type != "MatMul":
        return f"gradient is not a single product ({source.op.type})"
    if not source.op.get_attr("transpose_a") or source.op.get_attr("transpose_b"):
        return "gradient is a product of another form than U^T V"
    U_KM, V_KN = source.op.inputs
    if U_KM.shape.rank != 2 or V_KN.shape.rank != 2 or None in (U_KM.shape[1], V_KN.shape[1]):
        return "the factors' columns are not known when the step is traced"
    if U_KM.dtype != gradient.dtype:
        return "the factors have another dtype than the gradient"
    return Factors(U_KM, V_KN)


def column_sum_of(gradient: tf.Tensor) -> tf.Tensor | None:
    """The tensor (K, N) whose column sum this gradient is, if it is one."""
    if isinstance(gradient, tf.IndexedSlices) or not hasattr(gradient, "graph"):
        return None
    source = source_of(gradient)
    if source.op.type == "BiasAddGrad" and source.op.inputs[0].shape.rank == 2:
        return source.op.inputs[0]
    if source.op.type == "Sum" and source.op.inputs[0].shape.rank == 2:
        axes = tf.get_static_value(source.op.inputs[1])
        if axes is not None and axes.reshape(-1).tolist() == [0]:
            return source.op.inputs[0]
    return None


def rows_of(factor: tf.Tensor, batch_size: int | None) -> int | None:
    """K: the factor's own rows where they are static, else those that a batch makes of it."""
    if factor.shape[0] is not None:
        return max(1, int(factor.shape[0]))  # A worker's share of a partial batch may be empty.
    if batch_size is None:
        return None
    while factor.op.type in ("Identity", "Cast"):
        factor = factor.op.inputs[0]
    if factor.op.type != "Reshape":
        return batch_size
    shape = factor.op.inputs[0].shape
    if shape.rank is None or None in shape[1:] or shape[0] is not None:
        return None
    per_sample, columns = math.prod(shape[1:]), int(factor.shape[1])
    return batch_size * per_sample // columns if per_sample % columns == 0 else None


def describe(
    names: Sequence[str],
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    *,
    batch_size: int | None,
) -> tuple[list[VariableSpec], dict[int, Factors]]:
    """What the planner needs to know of each variable, and the factors by position.

    Args:
      batch_size: rows of one worker's batch, where the graph leaves them open.
    """
    factors: dict[int, Factors] = {}
    by_V: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for position, gradient in enumerate(gradients):
        found = find_factors(gradient)
        if isinstance(found, Factors) and math.prod(found.sides) == _size(variables[position]):
            factors[position] = found
            by_V[id(source_of(found.V_KN))] = names[position]
        else:
            reasons[position] = found if isinstance(found, str) else "product of another size"
    specs = []
    for position, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        found_factors = factors.get(position)
        V = column_sum_of(gradient)
        specs.append(
            VariableSpec(
                name=name,
                shape=tuple(variables[position].shape),
                dtype=gradient.dtype.name,
                factors=found_factors.sides if found_factors else None,
                rows=rows_of(found_factors.U_KM, batch_size) if found_factors else None,
                why_not=reasons.get(position, ""),
                bias_of=None if V is None else by_V.get(id(source_of(V))),
            )
        )
    return specs, factors


def source_of(tensor: tf.Tensor) -> tf.Tensor:
    """What gives `tensor` its value, past operations that only pass it on."""
    while tensor.op.type in _SAME_VALUE:
        tensor = tensor.op.inputs[0]
    return tensor


def _size(variable: tf.Variable) -> int:
    return math.prod(variable.shape)
