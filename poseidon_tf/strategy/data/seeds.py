"""The seeds in a dataset's pipeline: of its shuffles, and of what its functions draw.

Workers that share a dataset must have it in one order, or some samples come twice and others never.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from poseidon_tf.strategy import tf_internals

SeedFacts = tuple[str, tuple[int, ...]]
"""What draws, the kind of a dataset or of an operation, and with which seeds."""
_ATTRIBUTES = ("seed", "seed2")
_MOST_NUMBERS = 8  # A constant with more is no seed.


def seeds_of(dataset: tf.data.Dataset) -> tuple[SeedFacts, ...]:
    """All seeds that are fixed in the pipeline of `dataset`, in an order that its seeds decide."""
    return tuple(sorted(_of_pipeline(dataset)))


def is_unseeded(facts: SeedFacts) -> bool:
    """Whether TensorFlow chooses what it draws.

    Two zeros say so where an operation or a dataset has a seed and a second one. Those without a
    state have a single seed of two numbers, and draw by (0, 0) as by any other.
    """
    kind, numbers = facts
    names = _parameters(kind)
    is_stateless = "seed" in names and "seed2" not in names
    return not any(numbers) and not is_stateless


def seed_difference(everyone: Sequence[int | None]) -> str:
    """Who has seeded TensorFlow with what, by rank, and what to do; empty if all did alike."""
    if len(set(everyone)) == 1:
        return ""
    told = ", ".join(
        f"rank {rank} {'not at all' if seed is None else f'with {seed}'}"
        for rank, seed in enumerate(everyone)
    )
    return (
        f"the workers seeded TensorFlow differently: {told}. All shuffle one dataset and each "
        "takes its share: with other seeds some samples come twice and others never. Give all "
        "workers one seed, without the rank; replicas draw their own random numbers anyway. Where "
        "each worker has data of its own, give the rank to that data's operations only, as in "
        "shuffle(n, seed=seed + rank)"
    )


def _of_pipeline(dataset: Any) -> Iterator[SeedFacts]:
    own = [vars(dataset).get(f"_{name}") for name in _ATTRIBUTES]
    if any(seed is not None for seed in own):
        seeds = tuple(int(seed) for seed in own if seed is not None)
        yield type(dataset).__name__.strip("_"), seeds
    for graph_def in tf_internals.function_graphs(dataset):
        yield from _of_nodes(graph_def.node)
        for function in graph_def.library.function:
            yield from _of_nodes(function.node_def)
    for source in tf_internals.sources(dataset):
        yield from _of_pipeline(source)


def _of_nodes(nodes: Iterable[Any]) -> Iterator[SeedFacts]:
    by_name = {node.name: node for node in nodes}
    for node in by_name.values():
        seeds = [node.attr[name].i for name in _ATTRIBUTES if name in node.attr]
        for name, source in zip(_parameters(node.op), node.input, strict=False):
            if name in _ATTRIBUTES:
                seeds += _constants(source, by_name)
        if seeds:
            yield node.op, tuple(seeds)


@functools.cache
def _parameters(kind: str) -> list[str]:
    """What the inputs of an operation of this kind are called, in order, and its attributes."""
    operation = getattr(tf.raw_ops, kind, None)
    return [] if operation is None else list(inspect.signature(operation).parameters)


def _constants(source: str, by_name: dict[str, Any]) -> list[int]:
    """The whole numbers that the input `source` of a node is computed from."""
    node = by_name.get(source.lstrip("^").split(":")[0])
    if node is None:
        return []  # An argument of the function.
    if node.op != "Const":
        return [number for each in node.input for number in _constants(each, by_name)]
    value = tf.make_ndarray(node.attr["value"].tensor)
    is_seed = value.dtype.kind in "iu" and value.size <= _MOST_NUMBERS
    return [int(number) for number in value.flat] if is_seed else []
