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
    dataset = DealtDataset(
        distributed._input_workers,
        distributed._strategy,
        components=[tf_internals.pipeline_of(distributed)],
        element_spec=distributed._element_spec,
        enable_get_next_as_optional=distributed._enable_get_next_as_optional,
        options=distributed._options,
    )
    tf_internals.set_num_steps(dataset, distributed.cardinality)
    return dataset


class DealtDataset(tf_internals.DistributedDataset):  # type: ignore[misc]
    """A distributed dataset whose iterators give each replica the next piece."""

    def __iter__(self) -> Any:
        return _dealing(super().__iter__())

    @property
    def _type_spec(self) -> Any:
        return _DatasetSpec(
            self._input_workers,
            self._element_spec,
            self._strategy,
            self._options,
            enable_get_next_as_optional=self._enable_get_next_as_optional,
        )


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
        return _IteratorSpec(
            self._input_workers,
            self._element_spec,
            self._strategy,
            self._options,
            self._cardinality,
            self._enable_get_next_as_optional,
            self._replica_order,
        )


@final
class _IteratorSpec(tf_internals.DistributedIteratorSpec):  # type: ignore[misc]
    """Lets a `tf.function` take the iterator as an argument, as `fit` does."""

    @property
    def value_type(self) -> Any:
        return DealtIterator

    def _to_components(self, value: Any) -> Any:
        return [hand.pieces for hand in value._iterators]

    def _from_components(self, components: Any) -> Any:
        return _dealing(super()._from_components(components))


def _dealing(iterator: Any) -> Any:
    """The same iterator, asked for a piece as often as the worker has replicas.

    It is asked in their order, within a graph too: all of it reads one iterator of tf.data.
    """
    devices = iterator._input_workers.compute_devices_for_worker(0)
    iterator._iterators = [_Hand(pieces, len(devices)) for pieces in iterator._iterators]
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
