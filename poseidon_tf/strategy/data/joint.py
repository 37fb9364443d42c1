"""What the datasets of all workers have in common: the rows of a batch, and one end.

All workers distribute the same datasets in the same order: they compare what they know of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, final

import tensorflow as tf

from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.agreement import SHARED, DataFacts, TensorFacts, agree_on_ending
from poseidon_tf.strategy.data.batches import BatchSizes
from poseidon_tf.strategy.data.seeds import seeds_of
from poseidon_tf.strategy.data.shares import Shares
from poseidon_tf.strategy.data.voting import voted


@final
class JointData:
    """The data of one worker among others.

    Args:
      rows_per_step: of one worker's batch, as the user says; None if a dataset is to tell.

    Attributes:
      batches: remember how many rows a worker's batch has.
      shares: know how many rows a replica's share has, and which datasets have equal ones.
      newest: what Keras distributed last, while it reads it: the dataset, and what is known of it.
    """

    def __init__(self, worker: Worker, *, rows_per_step: int | None) -> None:
        self._worker = worker
        self.rank, self.num_workers = worker.rank, worker.num_workers
        self.batches = BatchSizes(rows_per_step)
        self.shares = Shares()
        self._num_distributed = 0
        self._num_batches: Callable[[], int | None] = lambda: None
        self._ends_by_steps = False
        self._may_be_the_users = False
        self.newest: tuple[tf.data.Dataset, DataFacts] | None = None

    @contextlib.contextmanager
    def read_by_keras(
        self,
        *,
        num_batches: Callable[[], int | None],
        ends_by_steps: bool,
        may_be_the_users: bool,
    ) -> Iterator[None]:
        """Within: the dataset that is distributed is one that Keras reads.

        Args:
          num_batches: of it, where Keras knows and the dataset itself does not, as for arrays.
          ends_by_steps: Keras stops after a number of steps, whatever the data.
          may_be_the_users: its batches are arrays of NumPy that the user may hold as well.
        """
        self._num_batches, self._ends_by_steps = num_batches, ends_by_steps
        self._may_be_the_users = may_be_the_users
        try:
            yield
        finally:
            self._num_batches, self._ends_by_steps = lambda: None, False
            self._may_be_the_users = False
            self.newest = None

    def in_fit(self, batch_size: int | None) -> contextlib.AbstractContextManager[None]:
        """Within: `fit` runs, and the first dataset it distributes is the training data.

        Args:
          batch_size: of all workers together, where `fit` makes the batches; else None.
        """
        return self.batches.fit(self._of_one_worker(batch_size))

    def saw_batch_of_all(self, rows: int | None) -> None:
        """A dataset was distributed whose batches of `rows` are those of all workers together."""
        self.batches.saw(self._of_one_worker(rows))

    def saw_batch_of_replica(self, rows: int | None) -> None:
        """A dataset was distributed whose batches of `rows` are a replica's."""
        self.batches.saw(None if rows is None else rows * self._worker.num_replicas)

    def _of_one_worker(self, rows: int | None) -> int | None:
        return None if rows is None else -(-rows // self.num_workers)

    def in_own_memory(self, dataset: Any) -> Any:
        """`dataset`, copied where it may be in memory that is the user's."""
        if not self._may_be_the_users:
            return dataset
        # A map function gets the parts of a tuple one by one, and may give back a tuple.
        is_tuple = isinstance(dataset.element_spec, tuple)
        return dataset.map(lambda *parts: _copied(parts if is_tuple else parts[0]))

    def with_one_end(self, strategy: Any, distributed: Any, *, policy: str, given: Any) -> Any:
        """`distributed`, ending at the same step on all workers.

        Args:
          policy: by which `given` is shared.
          given: what the user distributes.

        Raises:
          ConfigError: the workers' datasets do not fit together.
        """
        number, self._num_distributed = self._num_distributed, self._num_distributed + 1
        cardinality = int(given.cardinality())
        if cardinality == tf.data.UNKNOWN_CARDINALITY and (known := self._num_batches()):
            cardinality = known
        mine = DataFacts(
            policy=policy,
            cardinality=cardinality,
            batch_rows=_rows_of(given.element_spec),
            share_rows=_rows_of(tf_internals.of_one_replica(distributed.element_spec)),
            spec=_spec_facts(given.element_spec),
            seed=tf_internals.global_seed() if policy in SHARED else None,
            seeds=seeds_of(given) if policy in SHARED else (),
        )
        self.newest = given, mine
        parts = self._worker.gather(
            f"distribute dataset number {number}, as fit, evaluate and predict do and "
            "strategy.experimental_distribute_dataset",
            json.dumps(mine.to_json()).encode(),
        )
        ending = agree_on_ending(
            [DataFacts.from_json(json.loads(part)) for part in parts],
            num_local_replicas=self._worker.num_replicas,
            ends_by_steps=self._ends_by_steps,
        )
        self.shares.agreed_rows.add(ending.share_rows)
        if not ending.is_voted:
            tf_internals.set_num_steps(distributed, ending.steps)
            return distributed
        return voted(distributed, self._worker.data_ends, number, strategy)


def _copied(element: Any) -> Any:
    """The same numbers in memory of TensorFlow's own.

    A tensor may share the memory of the array it was made from. TensorFlow does not write into
    such a one, but it forgets that for a part of it: a worker's share, and with it the user's
    array, would be overwritten by what a step computes in place.
    """
    return tf.nest.map_structure(
        lambda each: each if each.dtype == tf.variant else tf.raw_ops.DeepCopy(x=each),
        element,
        expand_composites=True,
    )


def _rows_of(element_spec: Any) -> int | None:
    """Leading dimension of every tensor of an element, if it is known and the same for all."""
    shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(element_spec)]
    rows = {shape[0] if shape is not None and shape.rank else None for shape in shapes}
    return rows.pop() if len(rows) == 1 else None


def _spec_facts(spec: Any, place: str = "") -> tuple[TensorFacts, ...]:
    """Place, dtype and shape of every tensor of an element."""
    if isinstance(spec, (dict, tuple, list)):
        parts = sorted(spec.items()) if isinstance(spec, dict) else enumerate(spec)
        return tuple(
            facts for key, part in parts for facts in _spec_facts(part, f"{place}[{key!r}]")
        )
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    sides = None
    if shape is not None and shape.rank is not None:
        sides = tuple(-1 if side is None else int(side) for side in shape)
    return ((place, type(spec).__name__ if dtype is None else dtype.name, sides),)
