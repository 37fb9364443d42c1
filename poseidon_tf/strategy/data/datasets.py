"""Hands each worker its share of a dataset.

TensorFlow cuts the batches and shards the data; this file tells it which worker this is, and sees
to it that the data ends at the same step everywhere.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.agreement import SHARED, DataFacts, TensorFacts, agree_on_ending
from poseidon_tf.strategy.data.batches import BatchSizes
from poseidon_tf.strategy.data.dealt import dealt
from poseidon_tf.strategy.data.seeds import seeds_of
from poseidon_tf.strategy.data.shares import Shares
from poseidon_tf.strategy.data.voting import refuse_single_samples, voted

_FROM_HOST = tf.distribute.InputOptions(
    experimental_fetch_to_device=False,
    experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA,
)


@final
class Datasets:
    """The datasets that one worker's strategy distributes.

    All workers distribute the same ones in the same order: they compare what they know of them.

    Args:
      worker: None where one worker trains alone.
      batches: remembers how many rows a worker's batch has.
      shares: get to know which datasets have equal shares at all times.
      devices: of this worker's replicas.
    """

    def __init__(
        self,
        worker: Worker | None,
        batches: BatchSizes,
        shares: Shares,
        *,
        devices: Sequence[str],
    ) -> None:
        self._worker = worker
        self._rank = worker.rank if worker else 0
        self._num_workers = worker.num_workers if worker else 1
        self._devices = tuple(devices)
        self._num_local_replicas = len(devices)
        self._num_replicas = self._num_workers * len(devices)
        self._is_on_host = all("CPU" in device for device in devices)
        self._batches, self._shares = batches, shares
        self._num_distributed = 0
        self._num_batches: Callable[[], int | None] = lambda: None
        self._ends_by_steps = False
        self._may_be_the_users = False

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

    def distribute(
        self, strategy: tf.distribute.Strategy, dataset: Any, options: Any, *, input_workers: Any
    ) -> Any:
        """This worker's share of `dataset`, whose batches are those of all workers together.

        Raises:
          ConfigError: the workers' datasets do not fit together, or there is nothing to cut.
        """
        _refuse_per_replica(options)
        if self._num_replicas > 1:
            refuse_single_samples(dataset.element_spec)
        if self._may_be_the_users:
            # A map function gets the parts of a tuple one by one, and may give back a tuple.
            is_tuple = isinstance(dataset.element_spec, tuple)
            dataset = dataset.map(lambda *parts: _copied(parts if is_tuple else parts[0]))
        batch_size = _batch_size(dataset)
        self._batches.saw(None if batch_size is None else -(-batch_size // self._num_workers))

        distributed = tf_internals.input_util.get_distributed_dataset(
            dataset,
            self._readers(input_workers),
            strategy,
            num_replicas_in_sync=self._num_replicas,
            input_context=self._input_context(),
            options=_FROM_HOST if self._is_on_host else options,
        )
        return self._with_one_end(
            strategy,
            self._dealt(distributed),
            policy=dataset.options().experimental_distribute.auto_shard_policy.name,
            given=dataset,
        )

    def from_function(
        self, strategy: tf.distribute.Strategy, dataset_fn: Any, options: Any, *, input_workers: Any
    ) -> Any:
        """The dataset that `dataset_fn` makes for this worker; its batches are a replica's.

        Raises:
          ConfigError: the workers' datasets do not fit together.
        """
        _refuse_per_replica(options)
        made: list[Any] = []

        def watched_fn(context: tf.distribute.InputContext) -> Any:
            dataset = dataset_fn(context)
            made.append(dataset)
            rows = _batch_size(dataset)
            self._batches.saw(None if rows is None else rows * self._num_local_replicas)
            return dataset

        distributed = tf_internals.input_util.get_distributed_datasets_from_function(
            watched_fn,
            self._readers(input_workers),
            [self._input_context()],
            strategy,
            options=_FROM_HOST if self._is_on_host else options,
        )
        return self._with_one_end(
            strategy, self._dealt(distributed), policy="FUNCTION", given=made[0]
        )

    def _readers(self, input_workers: Any) -> Any:
        """Which host reads for which device: TensorFlow's, but on CPUs always one for all."""
        return tf_internals.input_workers(self._devices) if self._is_on_host else input_workers

    def _dealt(self, distributed: Any) -> Any:
        """On CPUs, what one plain iterator reads for all replicas of this worker."""
        is_among_several = self._is_on_host and self._num_local_replicas > 1
        return dealt(distributed) if is_among_several else distributed

    def _with_one_end(self, strategy: Any, distributed: Any, *, policy: str, given: Any) -> Any:
        """`distributed`, ending at the same step on all workers."""
        if self._worker is None or not tf.executing_eagerly():
            return distributed
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
        parts = self._worker.gather(
            f"distribute dataset number {number}, as fit, evaluate and predict do and "
            "strategy.experimental_distribute_dataset",
            json.dumps(mine.to_json()).encode(),
        )
        ending = agree_on_ending(
            [DataFacts.from_json(json.loads(part)) for part in parts],
            num_local_replicas=self._num_local_replicas,
            ends_by_steps=self._ends_by_steps,
        )
        self._shares.agreed_rows.add(ending.share_rows)
        if not ending.is_voted:
            tf_internals.set_num_steps(distributed, ending.steps)
            return distributed
        return voted(distributed, self._worker.data_ends, number, strategy)

    def _input_context(self) -> tf.distribute.InputContext:
        return tf.distribute.InputContext(
            num_input_pipelines=self._num_workers,
            input_pipeline_id=self._rank,
            num_replicas_in_sync=self._num_replicas,
        )


def _refuse_per_replica(options: Any) -> None:
    mode = tf.distribute.InputReplicationMode.PER_REPLICA
    if options and options.experimental_replication_mode == mode:
        raise NotImplementedError(
            "InputReplicationMode.PER_REPLICA is not supported; give PER_WORKER, with which one "
            "pipeline serves all replicas of a worker"
        )


def _batch_size(dataset: Any) -> int | None:
    """Rows of one batch, or None if it cannot be told; on scalars TensorFlow would fail."""
    specs = tf.nest.flatten(dataset.element_spec)
    has_scalars = any(getattr(spec, "shape", None) == () for spec in specs)
    return None if has_scalars else tf_internals.dataset_batch_size(dataset)


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
