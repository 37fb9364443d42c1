"""A dataset whose pipeline goes on until the data of all workers has ended.

After this worker's own elements come empty ones, of 0 rows, for as long as another worker still
has data. That is found out in the pipeline, ahead of the step that reads the element.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.session.data_ends import DataEnds
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.dealt import DealtDataset

_PREFETCHED = 2  # The same on all workers: none asks for what another never gets to.


class Voting:
    """The votes on one dataset.

    Args:
      number: of the dataset, the same on all workers.
      own: this worker's part of it.
    """

    def __init__(self, ends: DataEnds, number: int, own: tf.data.Dataset) -> None:
        self._ends, self._number = ends, number
        self._iterators = itertools.count()
        empty = tf.nest.map_structure(_empty, own.element_spec, expand_composites=False)
        has, has_not = (tf.data.Dataset.from_tensors(each).repeat() for each in (True, False))
        self._tagged = tf.data.Dataset.zip((has, own)).concatenate(
            tf.data.Dataset.zip((has_not, tf.data.Dataset.from_tensors(empty).repeat()))
        )

    def next_iterator(self) -> tuple[int, tf.data.Dataset]:
        """The number of an iterator that is about to be opened, and what it reads."""
        number = next(self._iterators)
        return number, self._ending(tf.data.Dataset.from_tensors(np.int64(number)).repeat())

    def for_graphs(self) -> tf.data.Dataset:
        """What an iterator reads that a tf.function opens, as often as it runs.

        It must be read to the end: nobody can tell when a graph has dropped it.
        """

        def numbered(_: Any) -> tf.data.Dataset:
            number = tf.numpy_function(lambda: np.int64(next(self._iterators)), [], tf.int64)
            return tf.data.Dataset.from_tensors(tf.ensure_shape(number, [])).repeat()

        return self._ending(tf.data.Dataset.from_tensors(0).flat_map(numbered))

    def drop(self, iterator: int) -> None:
        """This iterator is read no further."""
        self._ends.drop(self._number, iterator)

    def _ending(self, numbers: tf.data.Dataset) -> tf.data.Dataset:
        def has_step(iterator: Any, index: Any, has_element: Any) -> Any:
            return np.bool_(
                self._ends.has_step(self._number, int(iterator), int(index), bool(has_element))
            )

        def goes_on(iterator: tf.Tensor, indexed: Any) -> tf.Tensor:
            index, (has_element, _) = indexed
            answer = tf.numpy_function(has_step, [iterator, index, has_element], tf.bool)
            return tf.ensure_shape(answer, [])

        return (
            tf.data.Dataset.zip((numbers, self._tagged.enumerate()))
            .take_while(goes_on)
            .map(lambda _, indexed: indexed[1][1])
            .prefetch(_PREFETCHED)
            .with_options(_with_own_threads())
        )


def _with_own_threads() -> tf.data.Options:
    """A vote waits in a Python function: in the threads that all pipelines and steps share, a few
    such waits would stop the very steps that the others wait for."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = max(4, os.cpu_count() or 1)
    return options


class VotedDataset(tf_internals.DistributedDataset):  # type: ignore[misc]
    """A distributed dataset, of which every iterator has a number of its own."""

    voting: Voting

    def __iter__(self) -> Any:
        return _numbered_iterator(self, super().__iter__)


class VotedDealtDataset(DealtDataset):
    """Like `VotedDataset`, for several replicas."""

    voting: Voting

    def __iter__(self) -> Any:
        return _numbered_iterator(self, super().__iter__)


class VotedDatasetFromFunction(tf_internals.DistributedDatasetsFromFunction):  # type: ignore[misc]
    """Like `VotedDataset`, for what a function makes for each worker."""

    voting: Voting

    def __iter__(self) -> Any:
        return _numbered_iterator(self, super().__iter__)


_VOTED = {cls.__base__: cls for cls in (VotedDataset, VotedDealtDataset, VotedDatasetFromFunction)}


def _numbered_iterator(dataset: Any, open_iterator: Any) -> Any:
    if not tf.executing_eagerly():
        return open_iterator()
    number, pipeline = dataset.voting.next_iterator()
    with tf_internals.reading(dataset, pipeline):
        iterator = open_iterator()
    # Before its pipeline is ended, which waits for a vote that is still open.
    weakref.finalize(iterator, dataset.voting.drop, number).atexit = False
    return iterator


def voted(dataset: Any, ends: DataEnds, number: int, strategy: Any) -> Any:
    """`dataset`, distributed already, with votes in its pipeline."""
    dataset.voting = Voting(ends, number, tf_internals.pipeline_of(dataset))
    tf_internals.replace_pipeline(dataset, dataset.voting.for_graphs(), strategy=strategy)
    dataset.__class__ = _VOTED[type(dataset)]
    return dataset


def refuse_single_samples(element_spec: Any) -> None:
    """Raise if a tensor of an element has no rows, which replicas could share."""
    for spec in tf.nest.flatten(element_spec):
        if isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0:
            raise ConfigError(
                "the dataset's elements are single samples; batch() it before distributing it"
            )


def _empty(spec: Any) -> Any:
    """An element of 0 rows. Open dimensions get 1, on which more layers can work than on 0."""
    refuse_single_samples(spec)
    if isinstance(spec, tf.TensorSpec):
        sides = spec.shape.as_list() if spec.shape.rank else [0]
        return tf.zeros([0, *(1 if side is None else side for side in sides[1:])], spec.dtype)
    return tf_internals.empty_value(spec)
