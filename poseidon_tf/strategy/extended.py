"""What TensorFlow asks of a strategy: variables, replicas, datasets, reductions.

One replica per worker. Variables are mirrored ones, so that everything that knows TensorFlow's
strategies knows them; reductions go over the session instead of TensorFlow's collectives.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.batches import BatchSizes
from poseidon_tf.strategy.bridge import GraphRoute
from poseidon_tf.strategy.call_sites import CallSites
from poseidon_tf.strategy.datasets import Datasets
from poseidon_tf.sync.session import Deliver, Route
from poseidon_tf.sync.worker import Worker

# As Keras names them; a layer that derives from BatchNormalization keeps the names.
_MOVING_STATISTICS = frozenset({"moving_mean", "moving_variance"})
_SUMMABLE = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64"})


@final
class PoseidonExtended(tf_internals.MirroredExtended):  # type: ignore[misc]
    """The strategy's other half, as TensorFlow wants it split.

    Args:
      device: of this worker's replica.
      worker: None where one worker trains alone; every reduction is then its own result.
    """

    def __init__(
        self,
        container: tf.distribute.Strategy,
        *,
        device: str,
        worker: Worker | None,
        batches: BatchSizes,
    ) -> None:
        self._worker = worker
        self._datasets = Datasets(worker, batches, num_local_replicas=1)
        self._sites = CallSites()
        self._routes: dict[tuple[str, str], GraphRoute] = {}
        self._local = threading.local()
        super().__init__(container, devices=[device])

    @property
    def _rank(self) -> int:
        return self._worker.rank if self._worker else 0

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._worker.num_workers if self._worker else 1

    def _use_merge_call(self) -> bool:
        return False

    def _in_multi_worker_mode(self) -> bool:
        return False  # True wraps every batch in PerReplica, and Keras 3 fails on it.

    def _get_replica_id_in_sync_group(self, replica_id: int) -> int:
        return self._rank + replica_id

    def _get_local_replica_id(self, replica_id_in_sync_group: int) -> int:
        return replica_id_in_sync_group - self._rank

    def _call_for_each_replica(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        strategy = self._container_strategy()
        replica = tf_internals.distribute_lib.ReplicaContext(
            strategy, replica_id_in_sync_group=self._rank
        )
        with tf.device(self._devices[0]), replica:
            return tf_internals.convert_replica_fn(fn)(*args, **kwargs)

    def _create_variable(self, next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        if self._is_moving_statistic(kwargs):
            # Averaged inside every step: all workers hold the same statistics at all times, and
            # nobody who reads them has to wait for anybody.
            kwargs["aggregation"] = tf.VariableAggregation.MEAN
        return super()._create_variable(next_creator, **kwargs)

    def _is_moving_statistic(self, kwargs: dict[str, Any]) -> bool:
        """Whether these are the kwargs of BatchNormalization's moving mean or variance."""
        none = tf.VariableAggregation.NONE
        return (
            self._worker is not None
            and not kwargs.get("trainable")
            and "colocate_with" not in kwargs  # An optimizer's slot.
            and kwargs.get("aggregation", none) == none
            and str(kwargs.get("name")) in _MOVING_STATISTICS
        )

    # Datasets.

    def _experimental_distribute_dataset(self, dataset: Any, options: Any) -> Any:
        workers = self._input_workers_with_options(options)
        return self._datasets.distribute(
            self._container_strategy(), dataset, options, input_workers=workers
        )

    def _distribute_datasets_from_function(self, dataset_fn: Any, options: Any) -> Any:
        workers = self._input_workers_with_options(options)
        return self._datasets.from_function(
            self._container_strategy(), dataset_fn, options, input_workers=workers
        )

    def _experimental_distribute_values_from_function(self, value_fn: Any) -> Any:
        return value_fn(
            tf.distribute.experimental.ValueContext(self._rank, self._num_replicas_in_sync)
        )

    # Reductions.

    @contextlib.contextmanager
    def sums_done(self) -> Iterator[None]:
        """Within: a replica's `all_reduce` returns its argument; the gradients are sums already."""
        before = self.has_sums
        self._local.sums_done = True
        try:
            yield
        finally:
            self._local.sums_done = before

    @property
    def has_sums(self) -> bool:
        """Whether the calling thread is within `sums_done`."""
        return getattr(self._local, "sums_done", False)

    @contextlib.contextmanager
    def reading_together(self) -> Iterator[None]:
        """Within: all workers read the same metric variables, so that they can be summed.

        Elsewhere such a read gives this worker's own value: a lone read must wait for nobody.
        """
        self._local.reading_together = True
        try:
            yield
        finally:
            self._local.reading_together = False

    def _replica_ctx_all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        if self._worker is None or self.has_sums:
            return value
        return tf.nest.map_structure(lambda each: self._all_reduce(reduce_op, each), value)

    def _reduce_to(self, reduce_op: Any, value: Any, destinations: Any, options: Any = None) -> Any:
        if isinstance(value, tf_internals.SyncOnReadVariable):
            return self._read(reduce_op, value)
        if self._worker is None or isinstance(value, (tf_internals.Mirrored, int, float)):
            return super()._reduce_to(reduce_op, value, destinations, options)
        return self._all_reduce(reduce_op, value)

    def _batch_reduce_to(
        self, reduce_op: Any, value_destination_pairs: Any, options: Any = None
    ) -> list[Any]:
        return [
            self._reduce_to(reduce_op, value, destinations, options)
            for value, destinations in value_destination_pairs
        ]

    def _read(self, reduce_op: Any, variable: Any) -> tf.Tensor:
        """A metric's variable: this worker's value, or all workers' where they read together."""
        own = tf_internals.components(variable)[0].read_value()
        if self._worker is None or not getattr(self._local, "reading_together", False):
            return own
        stream = io.BytesIO()
        np.save(stream, own.numpy(), allow_pickle=False)
        values = [
            np.load(io.BytesIO(part), allow_pickle=False)
            for part in self._worker.gather("metric", stream.getvalue())
        ]
        total = np.sum(values, axis=0, dtype=values[0].dtype)
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            total = total / len(values)
        return tf.constant(total, own.dtype)

    def _all_reduce(self, reduce_op: Any, value: Any) -> tf.Tensor:
        """One value that the program itself reduces, over all workers."""
        value = tf.convert_to_tensor(value)
        if not tf_internals.is_tracing_for_real():
            return value
        dtype = value.dtype.name
        if dtype not in _SUMMABLE:
            raise ConfigError(
                f"all_reduce of a {dtype} tensor: only {', '.join(sorted(_SUMMABLE))} can be summed"
            )
        graph = None if tf.executing_eagerly() else tf_internals.graph()
        site = self._sites.name(graph)
        route = self._routes.get((site, dtype))
        if route is None:
            route = self._routes[site, dtype] = GraphRoute(
                f"all_reduce/{site}",
                [value.dtype],
                lambda deliver: self._open_route(f"all_reduce/{site}/{dtype}", dtype, deliver),
                lambda: self._worker.session.failure,  # type: ignore[union-attr]
            )
        (total,) = route.exchange([value])
        total = tf.reshape(total, tf.shape(value))
        total.set_shape(value.shape)
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            total = tf.cast(total / self._num_replicas_in_sync, value.dtype)
        return total

    def _open_route(self, name: str, dtype: str, deliver: Deliver) -> Route:
        assert self._worker is not None
        return self._worker.open_sum(
            name, dtype, None, num_elements=0, purpose="all_reduce", deliver=deliver
        )
