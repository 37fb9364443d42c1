"""Hands each worker its share of a dataset.

TensorFlow cuts the batches and shards the data; this file tells it which worker this is.
"""

from __future__ import annotations

from typing import Any, final

import tensorflow as tf

from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.batches import BatchSizes
from poseidon_tf.sync.worker import Worker


@final
class Datasets:
    """The datasets that one worker's strategy distributes.

    Args:
      worker: None where one worker trains alone.
      batches: remembers how many rows a worker's batch has.
      num_local_replicas: replicas of each worker.
    """

    def __init__(
        self, worker: Worker | None, batches: BatchSizes, *, num_local_replicas: int
    ) -> None:
        self._rank = worker.rank if worker else 0
        self._num_workers = worker.num_workers if worker else 1
        self._num_replicas = self._num_workers * num_local_replicas
        self._batches = batches

    def distribute(
        self, strategy: tf.distribute.Strategy, dataset: Any, options: Any, *, input_workers: Any
    ) -> Any:
        """This worker's share of `dataset`, whose batches are those of all workers together."""
        _refuse_per_replica(options)
        batch_size = tf_internals.dataset_batch_size(dataset)
        self._batches.saw(None if batch_size is None else -(-batch_size // self._num_workers))
        return tf_internals.input_util.get_distributed_dataset(
            dataset,
            input_workers,
            strategy,
            num_replicas_in_sync=self._num_replicas,
            input_context=self._input_context(),
            options=options,
        )

    def from_function(
        self, strategy: tf.distribute.Strategy, dataset_fn: Any, options: Any, *, input_workers: Any
    ) -> Any:
        """The dataset that `dataset_fn` makes for this worker; its batches are a replica's."""
        _refuse_per_replica(options)

        def watched_fn(context: tf.distribute.InputContext) -> Any:
            dataset = dataset_fn(context)
            self._batches.saw(tf_internals.dataset_batch_size(dataset))
            return dataset

        return tf_internals.input_util.get_distributed_datasets_from_function(
            watched_fn,
            input_workers,
            [self._input_context()],
            strategy,
            options=options,
        )

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
            "InputReplicationMode.PER_REPLICA is not supported; PER_WORKER is the same here, as "
            "every worker has one replica"
        )
