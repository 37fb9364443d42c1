"""Reads a traced step: in which compact form, if in any, the gradient of each variable can travel.

What a single product looks like is in `products`, sparse rows and their number in
`rows`. Whatever else stands between the product and the optimizer makes it something other
than one product, and the reason goes into the plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from poseidon_tf.planner import VariableSpec
from poseidon_tf.strategy.graph.products import Factors, find_column_sum, find_factors, source_of
from poseidon_tf.strategy.graph.rows import OPEN_ROWS, SparseRows, rows_of, sparse_rows

Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices
Compact: TypeAlias = Factors | SparseRows


def describe(
    names: Sequence[str],
    gradients: Sequence[Gradient],
    variables: Sequence[tf.Variable],
    *,
    batch_size: int | None,
    why_rows: str,
) -> tuple[list[VariableSpec], dict[int, Compact]]:
    """What the planner needs to know of each variable, and the compact forms by position.

    Args:
      batch_size: rows of one worker's batch, where the graph leaves them open.
      why_rows: why the optimizer must see every row of a sparse gradient, if it must.
    """
    compact: dict[int, Compact] = {}
    reasons: dict[int, str] = {}
    kernels: dict[tuple[int, int], str] = {}  # V, its columns -> whose factor it is
    for position, gradient in enumerate(gradients):
        if isinstance(gradient, tf.IndexedSlices):
            compact[position] = sparse_rows(gradient, variables[position])
            continue
        found = find_factors(gradient, math.prod(variables[position].shape))
        if isinstance(found, Factors):
            compact[position] = found
            kernels[id(source_of(found.V.tensor)), found.V.num_columns] = names[position]
        else:
            reasons[position] = found
    specs = [
        _spec(
            name,
            gradient,
            tuple(variables[position].shape),
            compact.get(position),
            reasons.get(position, ""),
            batch_size=batch_size,
            why_rows=why_rows,
            bias_of=(
                _kernel_of(gradient, math.prod(variables[position].shape), kernels)
                if position in reasons
                else None
            ),
        )
        for position, (name, gradient) in enumerate(zip(names, gradients, strict=True))
    ]
    return specs, compact


def _spec(
    name: str,
    gradient: Gradient,
    shape: tuple[int, ...],
    found: Compact | None,
    why_not: str,
    *,
    batch_size: int | None,
    why_rows: str,
    bias_of: str | None,
) -> VariableSpec:
    rows = None
    if isinstance(found, Factors):
        rows = rows_of(found.U.tensor, found.U.num_columns, batch_size)
        if rows is None:
            rows = rows_of(found.V.tensor, found.V.num_columns, batch_size)
    elif found is not None:
        rows = found.num_rows(batch_size)
    if found is not None and rows is None and batch_size is not None:
        why_not = OPEN_ROWS
    is_narrow = found is not None and found.dtype != gradient.dtype
    return VariableSpec(
        name=name,
        shape=shape,
        dtype=gradient.dtype.name,
        factors=found.sides if isinstance(found, Factors) else None,
        layout=found.layout if isinstance(found, Factors) else (),
        sparse=isinstance(found, SparseRows),
        rows=rows,
        factor_dtype=found.dtype.name if found is not None and is_narrow else None,
        why_not=why_not,
        why_rows=why_rows if isinstance(found, SparseRows) else "",
        bias_of=bias_of,
    )


def _kernel_of(
    gradient: Gradient, num_elements: int, kernels: dict[tuple[int, int], str]
) -> str | None:
    """The kernel with a factor of which this gradient is the column sum."""
    total = find_column_sum(gradient, num_elements)
    return None if total is None else kernels.get((id(total.tensor), total.num_columns))
