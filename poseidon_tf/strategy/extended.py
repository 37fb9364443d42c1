"""What TensorFlow asks of a strategy: variables, replicas, datasets, reductions.

Variables are mirrored ones, so that everything that knows TensorFlow's strategies knows them;
reductions go over the session instead of TensorFlow's collectives. A worker that trains alone has
no runtime: all of it is then TensorFlow's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import keras_two, logged, tf_internals
from poseidon_tf.strategy.data.datasets import Datasets
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.values.reductions import is_shared, of_each_replica

# As Keras names them; a layer that derives from BatchNormalization keeps the names.
_MOVING_STATISTICS = frozenset({"moving_mean", "moving_variance"})
# Of Keras's optimizers: all replicas assign the same to them.
_ALIKE = frozenset({"iteration", "learning_rate"})


@final
class PoseidonExtended(tf_internals.MirroredExtended):  # type: ignore[misc]
    """The strategy's other half, as TensorFlow wants it split.

    Args:
      devices: of this worker's replicas, one each.
      runtime: None where one worker trains alone.
    """

    def __init__(
        self,
        container: tf.distribute.Strategy,
        *,
        devices: Sequence[str],
        runtime: Runtime | None,
    ) -> None:
        self._runtime = runtime
        self._reductions = runtime.reductions if runtime else None
        self._rank = runtime.worker.rank if runtime else 0
        self._num_workers = runtime.worker.num_workers if runtime else 1
        self._num_local_replicas = len(devices)
        self._datasets = Datasets(runtime.data if runtime else None, devices=devices)
        self._counted: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        with logged.reading_tf_config():
            super().__init__(container, devices=list(devices))

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._num_workers * self._num_local_replicas

    def _use_merge_call(self) -> bool:
        if self._num_local_replicas == 1:
            return False
        if self._runtime is None:
            return bool(super()._use_merge_call())
        return self._runtime.sums.replicas_meet

    def _in_multi_worker_mode(self) -> bool:
        return False  # True wraps every batch in PerReplica, and Keras 3 fails on it.

    def _get_replica_id_in_sync_group(self, replica_id: int) -> int:
        return self._rank * self._num_local_replicas + replica_id

    def _get_local_replica_id(self, replica_id_in_sync_group: int) -> int:
        return replica_id_in_sync_group - self._rank * self._num_local_replicas

    def _call_for_each_replica(
        self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        if self._runtime is not None:
            self._runtime.first_values.begin()
        if self._num_local_replicas > 1:
            return super()._call_for_each_replica(self._counting_once(fn), args, kwargs)
        # In the calling thread, as OneDeviceStrategy does: updates within a tf.cond work then.
        replica = tf_internals.distribute_lib.ReplicaContext(
            self._container_strategy(), replica_id_in_sync_group=self._rank
        )
        with tf.device(self._devices[0]), replica:
            counted = self._counting(tf_internals.convert_replica_fn(fn))
            return counted(*args, **kwargs)

    def _counting(self, fn: Any) -> Any:
        """Among others, `fn` that counts the rows of its share."""
        return fn if self._runtime is None else self._runtime.data.shares.counting(fn)

    def _counting_once(self, fn: Any) -> Any:
        """The same again for the same `tf.function`, or it would be traced again."""
        is_traced = isinstance(fn, tf.types.experimental.PolymorphicFunction)
        if self._runtime is None or not is_traced:
            return self._counting(fn)
        if fn not in self._counted:
            self._counted[fn] = tf_internals.wrapped(fn, self._counting)
        return self._counted[fn]

    def _create_variable(self, next_creator: Callable[..., Any], **kwargs: Any) -> Any:
        # ON_READ ones are what metrics count in, which are no part of a model.
        if kwargs.get("synchronization") != tf.VariableSynchronization.ON_READ:
            keras_two.refuse_variable(kwargs.get("name"))
        aggregation = tf.VariableAggregation
        if self._is_moving_statistic(kwargs):
            # Averaged inside every step: all workers hold the same statistics at all times, and
            # nobody who reads them has to wait for anybody.
            kwargs["aggregation"] = aggregation.MEAN
        elif self._is_alike_anyway(kwargs):
            # Every replica assigns the same value to its own: nothing need be sent, and a call
            # into the other replicas' threads would fail within a tf.cond.
            kwargs["aggregation"] = aggregation.NONE
        is_slot = "colocate_with" in kwargs  # Optimizers know theirs.
        variable = super()._create_variable(next_creator, **kwargs)
        is_own = kwargs.get("synchronization") == tf.VariableSynchronization.ON_READ
        if self._runtime is not None and not is_slot and not is_own:
            self._runtime.first_values.made(variable)
        return variable

    def _is_moving_statistic(self, kwargs: dict[str, Any]) -> bool:
        """Whether these are the kwargs of BatchNormalization's moving mean or variance."""
        none = tf.VariableAggregation.NONE
        return (
            self._runtime is not None
            and not kwargs.get("trainable")
            and "colocate_with" not in kwargs  # An optimizer's slot.
            and kwargs.get("aggregation", none) == none
            and str(kwargs.get("name")) in _MOVING_STATISTICS
        )

    def _is_alike_anyway(self, kwargs: dict[str, Any]) -> bool:
        """Whether these are the kwargs of an optimizer's counter or learning rate."""
        return (
            self._runtime is not None
            and kwargs.get("aggregation") == tf.VariableAggregation.ONLY_FIRST_REPLICA
            and str(kwargs.get("name")) in _ALIKE
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

    def _make_dataset_iterator(self, dataset: Any) -> Any:
        self._refuse_iterator_of_tf1("make_dataset_iterator")
        return super()._make_dataset_iterator(dataset)

    def _make_input_fn_iterator(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse_iterator_of_tf1("make_input_fn_iterator")
        return super()._make_input_fn_iterator(*args, **kwargs)

    def _refuse_iterator_of_tf1(self, name: str) -> None:
        """Raises ConfigError among others: each worker would read what is meant for all."""
        if self._runtime is not None:
            raise ConfigError(
                f"strategy.{name} of TensorFlow 1 shares no data among workers; call "
                "experimental_distribute_dataset or distribute_datasets_from_function"
            )

    def _experimental_distribute_values_from_function(self, value_fn: Any) -> Any:
        values = [
            value_fn(
                tf.distribute.experimental.ValueContext(
                    self._get_replica_id_in_sync_group(replica), self._num_replicas_in_sync
                )
            )
            for replica in range(self._num_local_replicas)
        ]
        return values[0] if len(values) == 1 else tf_internals.regroup(values, always_wrap=True)

    # Reductions.

    def _replica_ctx_all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        if self._runtime is not None and self._runtime.sums.are_done:
            return value
        if self._reductions is None or self._use_merge_call():
            if self._num_replicas_in_sync == 1:
                return value
            return super()._replica_ctx_all_reduce(reduce_op, value, options)
        if self._num_local_replicas > 1 and _has_rows(value):
            return self._merged_all_reduce(reduce_op, value)
        reduce = self._reductions.reduce
        return tf.nest.map_structure(lambda each: reduce(reduce_op, each), value)

    def _merged_all_reduce(self, reduce_op: Any, value: Any) -> Any:
        """Sparse rows travel with those of the other replicas, or they could not stay in order."""

        def merged(_: Any, *shares: Any) -> list[Any]:
            return self._batch_reduce_to(reduce_op, [(each, each) for each in shares])

        replica = tf.distribute.get_replica_context()
        reduced = replica.merge_call(merged, args=tuple(tf.nest.flatten(value)))
        return tf.nest.pack_sequence_as(value, reduced)

    def _reduce_to(self, reduce_op: Any, value: Any, destinations: Any, options: Any = None) -> Any:
        if self._reductions is not None:
            if isinstance(value, tf_internals.SyncOnReadVariable):
                return self._reductions.read(reduce_op, value)
            if not self._is_tensorflows(reduce_op, value):
                reduce = self._reductions.reduce
                return tf.nest.map_structure(lambda each: reduce(reduce_op, each), value)
        elif self._num_replicas_in_sync == 1 and isinstance(value, tf_internals.SyncOnReadVariable):
            # TensorFlow gives the variable itself, of which older Keras makes no number.
            return tf_internals.components(value)[0].read_value()
        return super()._reduce_to(reduce_op, value, destinations, options)

    def _is_tensorflows(self, reduce_op: Any, value: Any) -> bool:
        """Whether `value` is the same everywhere: TensorFlow has rules for it, and refusals."""
        if isinstance(value, tf_internals.PerReplica):
            return False
        if isinstance(value, (tf.distribute.DistributedValues, int, float)):
            return True
        is_shared = self._num_local_replicas > 1 and tf.is_tensor(value)
        return is_shared and bool(reduce_op == tf.distribute.ReduceOp.SUM)

    def _broadcast_to(self, tensor: Any, destinations: Any) -> Any:
        # What replicas assign to a variable that takes the first one's: that is rank 0's.
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        if self._reductions is not None and getattr(destinations, "aggregation", None) == first:
            tensor = self._reductions.first(tensor)
        return super()._broadcast_to(tensor, destinations)

    def _gather_to_implementation(
        self, value: Any, destinations: Any, axis: Any, options: Any
    ) -> Any:
        if self._reductions is not None:
            return self._reductions.gather(value, axis)
        return super()._gather_to_implementation(value, destinations, axis, options)

    def _batch_reduce_to(
        self, reduce_op: Any, value_destination_pairs: Any, options: Any = None
    ) -> list[Any]:
        is_alone_with_several = self._reductions is None and self._num_local_replicas > 1
        reduced = []
        for value, destinations in value_destination_pairs:
            if is_alone_with_several and is_shared(value):
                reduced.append(value)  # As MirroredStrategy has it: it counts once.
                continue
            own = of_each_replica(value, self._num_local_replicas)
            total = self._reduce_to(reduce_op, own, destinations, options)
            reduced.append(self._on_each_replica(total))
        return reduced

    def _on_each_replica(self, value: Any) -> Any:
        """A tensor of its own for each: several that return the same one seem to be one replica."""
        is_one = self._reductions is None or self._num_local_replicas == 1
        if is_one or isinstance(value, tf.distribute.DistributedValues):
            return value
        copies = []
        for device in self._devices:
            with tf.device(device):
                copies.append(tf.identity(value))
        return tf_internals.regroup(copies, wrap_class=tf_internals.Mirrored)


def _has_rows(value: Any) -> bool:
    return any(isinstance(each, tf.IndexedSlices) for each in tf.nest.flatten(value))
