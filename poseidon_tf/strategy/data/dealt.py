"""Deals the pieces of one pipeline out to a worker's replicas on CPUs, to each in turn.

TensorFlow's own iterator over several devices fetches ahead for each. On CPUs that gains nothing,
and one that is dropped before its end may crash or stop the process. A pipeline for each replica
would read a generator's batches, and what a worker shares with nobody, once for each.
"""

from __future__ import annotations

from typing import Any, final

from poseidon_tf.strategy import tf_internals


def dealt(distributed: Any) -> Any:
    """`distributed`, whose one pipeline gives a replica's piece at a time, for all replicas."""
    return tf_internals.made_from(distributed, DealtDataset)


class DealtDataset(tf_internals.DistributedDataset):  # type: ignore[misc]
    """A distributed dataset whose iterators give each replica the next piece."""

    def __iter__(self) -> Any:
        return _dealing(super().__iter__())

    @property
    def _type_spec(self) -> Any:
        return _of_class(super()._type_spec, _DatasetSpec)


@final
class _DatasetSpec(tf_internals.DistributedDatasetSpec):  # type: ignore[misc]
    """Lets a `tf.function` take the dataset as an argument."""

    @property
    def value_type(self) -> Any:
        return DealtDataset

    def _from_components(self, components: Any) -> Any:
        return dealt(super()._from_components(components))


@final
class DealtIterator(tf_internals.DistributedIterator):  # type: ignore[misc]
    """An iterator of a `DealtDataset`."""

    @property
    def _type_spec(self) -> Any:
        return _of_class(super()._type_spec, _IteratorSpec)


@final
class _IteratorSpec(tf_internals.DistributedIteratorSpec):  # type: ignore[misc]
    """Lets a `tf.function` take the iterator as an argument, as `fit` does."""

    @property
    def value_type(self) -> Any:
        return DealtIterator

    def _to_components(self, value: Any) -> Any:
        return [hand.pieces for hand in tf_internals.host_iterators(value)]

    def _from_components(self, components: Any) -> Any:
        return _dealing(super()._from_components(components))


def _of_class(spec: Any, cls: type) -> Any:
    """TensorFlow's description of a value, for what differs from it in its class only."""
    spec.__class__ = cls
    return spec


def _dealing(iterator: Any) -> Any:
    """The same iterator, asked for a piece as often as the worker has replicas.

    It is asked in their order, within a graph too: all of it reads one iterator of tf.data.
    """
    tf_internals.replace_host_iterators(iterator, _Hand)
    iterator.__class__ = DealtIterator
    return iterator


@final
class _Hand:
    """What TensorFlow asks of one host's iterator.

    Args:
      pieces: gives one piece at a time, in a list.
      num_replicas: that the host reads for.
    """

    def __init__(self, pieces: Any, num_replicas: int) -> None:
        self.pieces = pieces
        self._num_replicas = num_replicas

    def get_next_as_list(self, name: str | None = None) -> list[Any]:
        return [
            piece for _ in range(self._num_replicas) for piece in self.pieces.get_next_as_list(name)
        ]

    def get_next_as_optional_list(self) -> list[Any]:
        return [
            piece
            for _ in range(self._num_replicas)
            for piece in self.pieces.get_next_as_optional_list()
        ]
