"""Have all workers given `fit` the same arrays? Each takes its share of every batch of them.

A few rows of each are compared: workers that shuffle or split their arrays by themselves, without a
common seed, have other rows nearly everywhere. What differs in rounding alone, as where hosts of
different kinds have prepared the same data, counts as the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy.data.agreement import DOUBLED

_ARGUMENTS = ("x", "y", "sample_weight", "validation_data")
_NUM_ROWS = 8
_ROUNDING = 1e-3  # Of a row's norm.

Rows = list[tuple[str, list[int], list[Any]]]
"""Which argument, the shape of one of its arrays, and what some of that one's rows are known by."""


def rows_of(arguments: Mapping[str, Any]) -> Rows:
    """Of the arrays among what `fit` was given; of anything else nothing is said."""
    return [
        (name, list(array.shape), _known_by(array))
        for name in _ARGUMENTS
        for array in tf.nest.flatten(arguments.get(name))
        if isinstance(array, np.ndarray | tf.Tensor) and len(array.shape) and len(array)
    ]


def refuse_other_rows(everyone: Sequence[Rows]) -> None:
    """Other shapes and kinds of data are for those to refuse who make datasets of them.

    Raises:
      ConfigError: arrays of one shape have other rows on some worker.
    """
    for rank, theirs in enumerate(everyone):
        for mine, other in zip(everyone[0], theirs, strict=False):
            if mine[:2] == other[:2] and not all(map(_is_same, mine[2], other[2])):
                raise ConfigError(
                    f"fit was given other rows of {mine[0]} on rank 0 and on rank {rank}. The "
                    f"workers share arrays: {DOUBLED}. Give all the same rows in the same order: "
                    "seed alike what draws, shuffles or splits them. Where each worker has data of "
                    "its own, make it a tf.data.Dataset with AutoShardPolicy.OFF"
                )


def _known_by(array: Any) -> list[Any]:
    """Rows all over the array, its first and last among them: product and norm, or a digest."""
    places = np.linspace(0, len(array) - 1, min(_NUM_ROWS, len(array))).astype(int)
    rows = [np.asarray(array[at]) for at in places]
    if rows[0].dtype.kind in "OSUMmc":
        return [hashlib.sha256(repr(row.tolist()).encode()).hexdigest() for row in rows]
    weights = np.random.default_rng(0).standard_normal(rows[0].size)
    flat = [np.nan_to_num(row.astype(np.float64)).ravel() for row in rows]
    return [[float(row @ weights), float(np.linalg.norm(row))] for row in flat]


def _is_same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, str) or isinstance(theirs, str):
        return bool(mine == theirs)
    (product, norm), (other_product, other_norm) = mine, theirs
    rounding = _ROUNDING * max(norm, other_norm)
    return bool(max(abs(product - other_product), abs(norm - other_norm)) <= rounding)
