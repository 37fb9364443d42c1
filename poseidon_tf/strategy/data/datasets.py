"""Hands each worker its share of a dataset.

TensorFlow cuts the batches and shards the data; this file tells it which worker this is. What the
workers have to agree on is in `joint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.dealt import dealt
from poseidon_tf.strategy.data.joint import JointData
from poseidon_tf.strategy.data.voting import refuse_single_samples

_FROM_HOST = tf.distribute.InputOptions(
    experimental_fetch_to_device=False,
    experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA,
)


@final
class Datasets:
    """The datasets that one worker's strategy distributes.

    All workers distribute the same ones in the same order: they compare what they know of them.

    Args:
      joint: what they have in common with the others'; None where one worker trains alone.
      devices: of this worker's replicas.
    """

    def __init__(self, joint: JointData | None, *, devices: Sequence[str]) -> None:
        self._joint = joint
        self._rank = joint.rank if joint else 0
        self._num_workers = joint.num_workers if joint else 1
        self._devices = tuple(devices)
        self._num_local_replicas = len(devices)
        self._num_replicas = self._num_workers * len(devices)
        self._is_on_host = all("CPU" in device for device in devices)

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
        if self._joint is not None:
            dataset = self._joint.in_own_memory(dataset)
            self._joint.saw_batch_of_all(rows_of_batches(dataset))
        distributed = tf_internals.input_util.get_distributed_dataset(
            dataset,
            self._readers(input_workers),
            strategy,
            num_replicas_in_sync=self._num_replicas,
            input_context=self._input_context(),
            options=_FROM_HOST if self._is_on_host else options,
        )
        policy = dataset.options().experimental_distribute.auto_shard_policy.name
        return self._with_one_end(strategy, distributed, policy=policy, given=dataset)

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
            if self._joint is not None:
                self._joint.saw_batch_of_replica(rows_of_batches(dataset))
            return dataset

        distributed = tf_internals.input_util.get_distributed_datasets_from_function(
            watched_fn,
            self._readers(input_workers),
            [self._input_context()],
            strategy,
            options=_FROM_HOST if self._is_on_host else options,
        )
        return self._with_one_end(strategy, distributed, policy="FUNCTION", given=made[0])

    def _readers(self, input_workers: Any) -> Any:
        """Which host reads for which device: TensorFlow's, but on CPUs always one for all."""
        return tf_internals.input_workers(self._devices) if self._is_on_host else input_workers

    def _with_one_end(self, strategy: Any, distributed: Any, *, policy: str, given: Any) -> Any:
        """`distributed`, on CPUs read by one plain iterator, and ending where the others' does."""
        if self._is_on_host and self._num_local_replicas > 1:
            distributed = dealt(distributed)
        if self._joint is None or not tf.executing_eagerly():
            return distributed
        return self._joint.with_one_end(strategy, distributed, policy=policy, given=given)

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


def rows_of_batches(dataset: Any) -> int | None:
    """Rows of one batch, or None if it cannot be told; on scalars TensorFlow would fail."""
    specs = tf.nest.flatten(dataset.element_spec)
    has_scalars = any(getattr(spec, "shape", None) == () for spec in specs)
    return None if has_scalars else tf_internals.dataset_batch_size(dataset)
