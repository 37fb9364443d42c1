"""Recognises, in a traced step, a gradient that is one product U^T V of two factors.

    MatMul(U, V, transpose_a)            a dense kernel, of rank-2 inputs or folded sequences
    Sum < BatchMatMul(x, y, adj_x)       the same of sequences: batch by batch, then added up
    Einsum of x and y                    any equation that sums over the labels that both share

Operations that change no value are looked through: they pass it on, give it another shape or
order, or a wider type. A product in a narrow type has narrow factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from poseidon_tf.planner import Layout

_SAME_VALUE = frozenset({"Identity", "IdentityN", "StopGradient", "Reshape"})


@dataclass(frozen=True, slots=True)
class Factor:
    """A tensor of the traced step, seen as a matrix of K rows.

    Args:
      order: of its dimensions, so that those of a row come last; None if they do.
    """

    tensor: tf.Tensor
    num_columns: int
    order: tuple[int, ...] | None = None

    def matrix(self) -> tf.Tensor:
        """Of shape (K, num_columns)."""
        shape = self.tensor.shape
        if self.order is None and shape.rank == 2 and shape[1] == self.num_columns:
            return self.tensor
        in_order = self.tensor if self.order is None else tf.transpose(self.tensor, self.order)
        return tf.reshape(in_order, [-1, self.num_columns])


@dataclass(frozen=True, slots=True)
class Factors:
    """U of M columns and V of N, and how their M x N product becomes the gradient.

    Args:
      layouts: in order, a shape to take on and a permutation of its dimensions.
    """

    U: Factor
    V: Factor
    layouts: Layout = ()

    @property
    def sides(self) -> tuple[int, int]:
        """M and N."""
        return self.U.num_columns, self.V.num_columns

    @property
    def dtype(self) -> tf.DType:
        return self.U.tensor.dtype

    @property
    def layout(self) -> Layout:
        """`layouts` without those that change nothing and pairs that undo each other."""
        kept: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for before, order in self.layouts:
            if order == tuple(range(len(order))):
                continue
            if kept and order == kept[-1][1] == (1, 0) and before == kept[-1][0][::-1]:
                kept.pop()
                continue
            kept.append((before, order))
        return tuple(kept)

    def arranged(self, sides: tuple[int, int], layout: Layout) -> Factors | None:
        """The same product with U of M and V of N columns and this layout; None if it is not one.

        TensorFlow may multiply the other way round where it traces a step for other shapes.
        """
        M, N = self.sides
        turned = replace(self, U=self.V, V=self.U, layouts=(((N, M), (1, 0)), *self.layouts))
        for each in (self, turned):
            if (each.sides, each.layout) == (sides, layout):
                return each
        return None


@dataclass(frozen=True, slots=True)
class ColumnSum:
    """The sum over the rows of `tensor`, of which one has `num_columns` numbers."""

    tensor: tf.Tensor
    num_columns: int


def laid_out(product_MN: tf.Tensor, layout: Layout, shape: Sequence[int]) -> tf.Tensor:
    """The product of all workers' factors as the gradient of a kernel of `shape`."""
    value = product_MN
    for before, order in layout:
        value = tf.transpose(tf.reshape(value, before), order)
    return tf.reshape(value, shape)


def find_factors(gradient: tf.Tensor, num_elements: int) -> Factors | str:
    """The factors of a kernel's gradient, or why it has none that this file can see.

    Args:
      num_elements: of the kernel.
    """
    if not hasattr(gradient, "graph"):
        return "eager gradients have no graph to read factors from"
    source, layouts = gradient, []
    while True:
        source = source_of(source, through_casts=True)
        if source.op.type != "Transpose":
            break
        order = _static_order(source.op.inputs[1])
        before = source.op.inputs[0].shape
        if order is None or not before.is_fully_defined():
            return "gradient is a product in an order that is not known when the step is traced"
        layouts.append((tuple(before.as_list()), order))
        source = source.op.inputs[0]
    found: Factors | str
    if source.op.type == "MatMul":
        found = _of_matmul(source.op, num_elements)
    elif source.op.type == "Sum" and source.op.inputs[0].op.type == "BatchMatMulV2":
        found = _of_batch_matmul(source.op, source.op.inputs[0].op)
    elif source.op.type == "Einsum":
        found = _of_einsum(source.op)
    else:
        return f"gradient is not a single product ({source.op.type})"
    if isinstance(found, str):
        return found
    if math.prod(found.sides) != num_elements:
        return "product of another size"
    if found.V.tensor.dtype != found.dtype:
        return "the factors have different dtypes"
    return Factors(found.U, found.V, (*found.layouts, *reversed(layouts)))


def find_column_sum(gradient: tf.Tensor, num_elements: int) -> ColumnSum | None:
    """What this gradient is the column sum of, if it is one.

    Where a dimension is known to be 1 TensorFlow leaves it out of the sum, or leaves out the sum.

    Args:
      num_elements: of the gradient.
    """
    if isinstance(gradient, tf.IndexedSlices) or not hasattr(gradient, "graph"):
        return None
    tensor = source_of(gradient, through_casts=True)
    axes: list[int] = []
    op = tensor.op
    if op.type == "BiasAddGrad":
        tensor = op.inputs[0]
        if tensor.shape.rank is None or op.get_attr("data_format") != b"NHWC":
            return None
        axes = list(range(tensor.shape.rank - 1))
    elif op.type == "Sum":
        tensor, known = op.inputs[0], tf.get_static_value(op.inputs[1])
        if tensor.shape.rank is None or known is None:
            return None
        axes = [int(axis) % tensor.shape.rank for axis in known.reshape(-1)]
    if tensor.shape.rank is None:
        return None
    first = max(axes, default=-1) + 1  # The last dimension that is summed; columns follow.
    rows, columns = tensor.shape[:first].as_list(), tensor.shape[first:]
    is_summed = all(at in axes or size == 1 for at, size in enumerate(rows))
    if not is_summed or not columns.is_fully_defined() or math.prod(columns) != num_elements:
        return None
    return ColumnSum(source_of(tensor), num_elements)


def source_of(tensor: tf.Tensor, *, through_casts: bool = False) -> tf.Tensor:
    """What gives `tensor` its value, past operations that only pass it on or widen it."""
    while True:
        op = tensor.op
        if op.type not in _SAME_VALUE and not (through_casts and _widens(op)):
            return tensor
        tensor = op.inputs[tensor.value_index]


def _widens(op: tf.Operation) -> bool:
    if op.type != "Cast":
        return False
    narrow, wide = op.inputs[0].dtype, op.outputs[0].dtype
    return bool(narrow.is_floating and wide.is_floating and narrow.size < wide.size)


def _static_order(axes: tf.Tensor) -> tuple[int, ...] | None:
    """A permutation that a gradient undoes by another one, or a plain one."""
    if axes.op.type == "InvertPermutation":
        inverse = tf.get_static_value(axes.op.inputs[0])
        return None if inverse is None else tuple(int(axis) for axis in inverse.argsort())
    order = tf.get_static_value(axes)
    return None if order is None else tuple(int(axis) for axis in order)


def _of_matmul(op: tf.Operation, num_elements: int) -> Factors | str:
    if not op.get_attr("transpose_a") or op.get_attr("transpose_b"):
        return "gradient is a product of another form than U^T V"
    U, V = op.inputs
    M, N = (None if factor.shape.rank != 2 else factor.shape[1] for factor in (U, V))
    # A sequence is folded to a shape that is computed: only one of the two may show.
    M = num_elements // N if M is None and N else M
    N = num_elements // M if N is None and M else N
    if M is None or N is None:
        return "the factors' columns are not known when the step is traced"
    return Factors(Factor(U, int(M)), Factor(V, int(N)))


def _of_batch_matmul(total: tf.Operation, op: tf.Operation) -> Factors | str:
    if not op.get_attr("adj_x") or op.get_attr("adj_y"):
        return "gradient is a product of another form than U^T V"
    x, y = op.inputs
    if x.shape.rank is None or x.shape.rank != y.shape.rank or None in (x.shape[-1], y.shape[-1]):
        return "the factors' columns are not known when the step is traced"
    rows_of_x, rows_of_y = x.shape[:-1].as_list(), y.shape[:-1].as_list()
    if rows_of_x != rows_of_y or not _sums_only(total.inputs[1], x.shape.rank - 2):
        return "gradient is a sum of products over other dimensions than the batch"
    return Factors(Factor(x, int(x.shape[-1])), Factor(y, int(y.shape[-1])))


def _sums_only(axes: tf.Tensor, num_batch_axes: int) -> bool:
    """Whether these axes of a sum are the first ones, those of the batch."""
    known = tf.get_static_value(axes)
    if known is not None:
        return sorted(known.reshape(-1).tolist()) == list(range(num_batch_axes))
    # TensorFlow's gradient finds them by comparing the batch dimensions of two shapes, and only
    # those: how many it compares shows that the axes of the product are not among them.
    return axes.op.type == "BroadcastGradientArgs" and all(
        shape.shape.rank == 1 and shape.shape[0] is not None and shape.shape[0] <= num_batch_axes
        for shape in axes.op.inputs
    )


def _of_einsum(op: tf.Operation) -> Factors | str:
    equation = op.get_attr("equation").decode()
    inputs, _, output = equation.replace(" ", "").partition("->")
    labels = inputs.split(",")
    terms = [*labels, output]
    if len(labels) != 2 or "." in equation or any(len(set(term)) != len(term) for term in terms):
        return f"gradient is not a single product (Einsum {equation})"
    first = 0 if output[:1] in labels[0] else 1
    (U_labels, U), (V_labels, V) = sorted(
        zip(labels, op.inputs, strict=True), key=lambda pair: pair[0] != labels[first]
    )
    summed = [label for label in U_labels if label in V_labels and label not in output]
    M_labels = [label for label in output if label in U_labels and label not in V_labels]
    N_labels = [label for label in output if label in V_labels and label not in U_labels]
    is_product = (
        sorted(output) == sorted(M_labels + N_labels)
        and sorted(U_labels) == sorted(summed + M_labels)
        and sorted(V_labels) == sorted(summed + N_labels)
        and summed
    )
    if not is_product:
        return f"gradient is not a single product (Einsum {equation})"
    sizes: dict[str, int | None] = dict(zip(U_labels, U.shape.as_list(), strict=True))
    sizes |= dict(zip(V_labels, V.shape.as_list(), strict=True))
    shape = [sizes[label] for label in M_labels + N_labels]
    if None in shape:
        return "the factors' columns are not known when the step is traced"
    known = tuple(int(size) for size in shape if size is not None)
    order = tuple((M_labels + N_labels).index(label) for label in output)
    return Factors(
        _ordered(U, U_labels, summed, M_labels, math.prod(known[: len(M_labels)])),
        _ordered(V, V_labels, summed, N_labels, math.prod(known[len(M_labels) :])),
        () if order == tuple(range(len(order))) else ((known, order),),
    )


def _ordered(
    tensor: tf.Tensor, labels: str, rows: Sequence[str], columns: Sequence[str], num_columns: int
) -> Factor:
    order = tuple(labels.index(label) for label in (*rows, *columns))
    return Factor(tensor, num_columns, None if order == tuple(range(len(order))) else order)
