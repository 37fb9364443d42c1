"""What each scheme sends in a step, and the gradients that come of what it receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from poseidon_tf.planner import Unit
from poseidon_tf.strategy.bridge import GraphRoute
from poseidon_tf.strategy.graph_factors import Factors


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """A unit of the plan and its way to the other workers."""

    unit: Unit
    route: GraphRoute


def exchange_sum(
    open_unit: OpenUnit,
    gradients: Sequence[tf.Tensor],
    factors: Mapping[int, Factors],
    variables: Sequence[tf.Variable],
) -> dict[int, tf.Tensor]:
    """The gradients of a PS unit, summed by the servers."""
    positions = open_unit.unit.variables
    (total,) = open_unit.route.exchange([gradients[position] for position in positions])
    sizes = [variables[position].shape.num_elements() for position in positions]
    total = tf.ensure_shape(total, [sum(sizes)])
    return {
        position: tf.reshape(part, variables[position].shape)
        for position, part in zip(positions, tf.split(total, sizes), strict=True)
    }


def exchange_factors(
    open_unit: OpenUnit,
    gradients: Sequence[tf.Tensor],
    factors: Mapping[int, Factors],
    variables: Sequence[tf.Variable],
) -> dict[int, tf.Tensor]:
    """The gradients of a kernel and its biases, from the factors of all workers.

    One product over the rows of all ranks replaces the local one, which nothing uses any more:
    TensorFlow prunes it.
    """
    kernel, *biases = open_unit.unit.variables
    U_KM, V_KN = open_unit.route.exchange([factors[kernel].U_KM, factors[kernel].V_KN])
    M, N = factors[kernel].sides
    U_KM, V_KN = tf.ensure_shape(U_KM, [None, M]), tf.ensure_shape(V_KN, [None, N])
    product = tf.matmul(U_KM, V_KN, transpose_a=True, name="poseidon_rebuild")
    summed = {kernel: tf.reshape(product, variables[kernel].shape)}
    for bias in biases:
        summed[bias] = tf.reshape(tf.reduce_sum(V_KN, axis=0), variables[bias].shape)
    return summed
