"""Every private name of TensorFlow and Keras that the strategy touches, and why.

A version that lacks one of them is refused when this file is imported, in one sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy.found_classes import classes_beside, owner
from poseidon_tf.strategy.versions import OLDEST_KERAS, OLDEST_TENSORFLOW, refusal

_REFUSAL = refusal(
    tensorflow=tf.__version__, keras=keras.__version__, backend=keras.backend.backend()
)
if _REFUSAL:
    raise ConfigError(_REFUSAL)

try:
    # Found by what they do, as their names change. The first knows gradients AND variables.
    TFOptimizer = owner("_backend_update_step", keras.optimizers.Optimizer.__mro__)
    TensorFlowTrainer = owner("fit", keras.Model.__mro__)  # fit, evaluate, predict;
    TFEpochIterator = owner("catch_stop_iteration", classes_beside(TensorFlowTrainer))  # Data.
    from keras.optimizers import LossScaleOptimizer  # Looks for overflow.
    from keras.src.models.functional import Functional  # Models that can be rebuilt by layer.
    from tensorflow.python.autograph.core import ag_ctx  # Replica functions are converted as in TF.
    from tensorflow.python.autograph.impl import api as autograph
    from tensorflow.python.data.experimental.ops.distribute import (
        compute_batch_size,  # A dataset's batch, static or found in its graph.
    )
    from tensorflow.python.distribute import distribute_lib, input_util  # Contexts; data sharding.
    from tensorflow.python.distribute.distribute_utils import (
        regroup,  # One value per local replica.
    )
    from tensorflow.python.distribute.input_lib import (
        DistributedDataset,  # What `fit` reads; its pipeline can be replaced.
        DistributedDatasetsFromFunction,
        DistributedDatasetSpec,  # What a tf.function makes an argument anew from.
        DistributedIterator,
        DistributedIteratorSpec,
        InputWorkers,  # Which host reads for which device.
        _create_distributed_tensor_spec,  # What the replaced pipeline gives each replica.
        _dummy_tensor_fn,  # Empty ragged and sparse tensors.
    )
    from tensorflow.python.distribute.mirrored_strategy import (
        MirroredExtended,  # Mirrored variables and their updates: the base of every TF strategy.
    )
    from tensorflow.python.distribute.values import (
        Mirrored,  # Equal everywhere by construction: nothing to reduce.
        PerReplica,  # What the replicas of one worker hold.
        SyncOnReadVariable,  # What Keras metrics count in.
    )
    from tensorflow.python.distribute.values_util import (
        get_current_replica_id_as_int,  # The public id is a tensor while a step is traced.
    )
    from tensorflow.python.eager import (
        context,  # What the user has seeded TensorFlow with.
        record,  # When the gradient of a variable is final; which tapes record.
    )
    from tensorflow.python.framework import random_seed  # Where the seeds of operations are made.
    from tensorflow.python.framework.func_graph import FuncGraph  # What `tf.function` traces into.
    from tensorflow.python.ops.control_flow_v2_func_graphs import (
        CondBranchFuncGraph,  # Graphs that live and die with the one around them.
        WhileBodyFuncGraph,
        WhileCondFuncGraph,
    )

    record.record_operation_backprop_only  # noqa: B018
    record.should_record_backprop  # noqa: B018
    TFOptimizer._backend_update_step  # noqa: B018 - fails early.
    TFOptimizer._clip_gradients  # noqa: B018
    LossScaleOptimizer._tf_apply  # noqa: B018
    TensorFlowTrainer._get_metrics_result_or_logs  # noqa: B018
    TensorFlowTrainer._maybe_symbolic_build  # noqa: B018
    TFEpochIterator._enumerate_iterator  # noqa: B018
    keras.callbacks.BackupAndRestore._save_model  # noqa: B018
    TFOptimizer._backend_apply_gradients  # noqa: B018
    keras.layers.BatchNormalization._moments  # noqa: B018
    tf.train.Checkpoint._write  # noqa: B018
    random_seed.get_seed  # noqa: B018
    tf.data.Dataset._functions, tf.data.Dataset._inputs  # noqa: B018
    keras.Variable._maybe_autocast  # noqa: B018 - whatever reads a variable comes by it.
except (ImportError, AttributeError) as failure:
    raise ConfigError(
        f"poseidon_tf needs TensorFlow {'.'.join(map(str, OLDEST_TENSORFLOW))} or newer with Keras "
        f"{'.'.join(map(str, OLDEST_KERAS))} or newer; TensorFlow {tf.__version__} with Keras "
        f"{keras.__version__} lacks something it is built on: {failure}"
    ) from failure


def is_tracing_for_real() -> bool:
    """False in a graph that never runs, such as Keras's scratch graph for symbolic builds.

    The gradient of a function runs, though TensorFlow orders nothing in it but by its inputs.
    """
    if tf.executing_eagerly() or acd_manager() is not None:
        return True
    return str(graph().name).startswith("__backward_")


def is_session_graph() -> bool:
    """Whether the code that runs now builds a `tf.Graph` of TensorFlow 1, for a session to run."""
    return not (tf.executing_eagerly() or isinstance(graph(), FuncGraph))


def acd_manager() -> Any:
    """What orders stateful operations in the current graph; None where nothing does."""
    return getattr(graph(), "experimental_acd_manager", None)


def graph() -> Any:
    """The graph that is being traced."""
    return tf.compat.v1.get_default_graph()


def is_branch(graph: Any) -> bool:
    """Whether `graph` is a branch or a loop's body within another graph, not a function."""
    return isinstance(graph, (CondBranchFuncGraph, WhileBodyFuncGraph, WhileCondFuncGraph))


def arguments(graph: Any) -> list[Any]:
    """The tensors that the function traced into `graph` is called with, in order."""
    captured = {id(tensor) for tensor in graph.internal_captures}
    placeholders = (op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder")
    return [
        tensor
        for tensor in placeholders
        if id(tensor) not in captured and tensor.dtype not in (tf.resource, tf.variant)
    ]


def run_independently(operation: tf.Operation) -> None:
    """Let `operation` start as soon as its inputs are there, not in program order.

    Automatic control dependencies would chain every push behind the one traced before it, and
    Keras lists gradients bottom layer first: nothing would leave before backprop ends.
    """
    if (manager := acd_manager()) is not None:
        manager.run_independently(operation)
    else:  # The gradient of a function, which ends when its results are there and this is done.
        graph().control_outputs.append(operation)


def global_seed() -> int | None:
    """What `tf.random.set_seed` or `keras.utils.set_random_seed` was called with, if it was."""
    seed = context.global_seed()
    return None if seed is None else int(seed)


def convert_replica_fn(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with AutoGraph as the caller has it, as TensorFlow's strategies do."""
    converted: Callable[..., Any] = autograph.tf_convert(
        fn, ag_ctx.control_status_ctx(), convert_by_default=False
    )
    return converted


def dataset_batch_size(dataset: Any) -> int | None:
    """Rows of one batch of `dataset`, or None if it cannot be told."""
    batch_size = int(compute_batch_size(dataset))
    return batch_size if batch_size > 0 else None


def is_in_replica() -> bool:
    """Whether a strategy's replica is running; without a strategy, TensorFlow says so as well."""
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None


def replica_id() -> int:
    """Which of this worker's replicas is running; 0 where none is."""
    return get_current_replica_id_as_int() or 0


def wrapped(fn: Any, wrap: Callable[[Any], Any]) -> Any:
    """A `tf.function` of `wrap` around what it runs, with the options that it was made with.

    TensorFlow traces all replicas of a `tf.function` together. Within a function of another kind
    the first replica's would wait for the second's.
    """
    return fn._clone(python_function=wrap(fn.python_function))


def gradient_accumulators(optimizer: Any) -> list[Any]:
    """Variables in which each worker adds up its own gradients until the next update."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return [v for v in getattr(inner, "_accumulated_gradients", ()) if v is not None]


def build_symbolically(model: Any, batch: Any) -> None:
    """Make the variables of a model and its optimizer, as `train_on_batch` is about to."""
    model._maybe_symbolic_build(data_batch=batch)


def input_workers(devices: Sequence[str]) -> Any:
    """The host that reads one pipeline for all of these devices."""
    return InputWorkers([("/device:CPU:0", tuple(devices))])


def pipeline_of(dataset: Any) -> tf.data.Dataset:
    """What this worker's iterators of a distributed dataset read."""
    (pipeline,) = getattr(dataset, _pipelines(dataset))
    return pipeline


def sources(dataset: Any) -> list[tf.data.Dataset]:
    """The datasets that a `tf.data.Dataset` reads."""
    return list(dataset._inputs())


def function_graphs(dataset: Any) -> list[Any]:
    """The `GraphDef` of every function that a dataset calls by itself."""
    return [wrapper.function.graph.as_graph_def() for wrapper in dataset._functions()]


def captured_by_functions(dataset: Any) -> list[Any]:
    """What the functions that a dataset calls by itself have from outside: a list for each."""
    return [wrapper.function.captured_inputs for wrapper in dataset._functions()]


@contextlib.contextmanager
def reading(dataset: Any, pipeline: tf.data.Dataset) -> Iterator[None]:
    """Within: iterators of the distributed `dataset` that are opened read `pipeline`."""
    name = _pipelines(dataset)
    before = getattr(dataset, name)
    setattr(dataset, name, [pipeline])
    try:
        yield
    finally:
        setattr(dataset, name, before)


def replace_pipeline(dataset: Any, pipeline: tf.data.Dataset, *, strategy: Any) -> None:
    """Let the distributed `dataset`, of a length nobody knows, read `pipeline` from now on.

    A last step that has elements for some of this worker's replicas only gets empty ones for the
    others.
    """
    setattr(dataset, _pipelines(dataset), [pipeline])
    dataset._element_spec = _create_distributed_tensor_spec(strategy, pipeline.element_spec)
    dataset._enable_get_next_as_optional = len(strategy.extended.worker_devices) > 1
    set_num_steps(dataset, tf.data.UNKNOWN_CARDINALITY)


def made_from(distributed: Any, cls: Any) -> Any:
    """A `cls` of `DistributedDataset` that reads what `distributed` would."""
    dataset = cls(
        distributed._input_workers,
        distributed._strategy,
        components=[pipeline_of(distributed)],
        element_spec=distributed._element_spec,
        enable_get_next_as_optional=distributed._enable_get_next_as_optional,
        options=distributed._options,
    )
    set_num_steps(dataset, distributed.cardinality)
    return dataset


def host_iterators(iterator: Any) -> list[Any]:
    """What a distributed `iterator` reads, one for each host: this one."""
    hosts: list[Any] = iterator._iterators
    return hosts


def replace_host_iterators(iterator: Any, replace: Callable[[Any, int], Any]) -> None:
    """Let a distributed `iterator` read `replace(host_iterator, number_of_its_replicas)`."""
    num_replicas = len(iterator._input_workers.compute_devices_for_worker(0))
    iterator._iterators = [replace(host, num_replicas) for host in iterator._iterators]


def distributed_dataset(epochs: Any) -> Any:
    """What Keras's `TFEpochIterator` has its batches from."""
    return epochs._distributed_dataset


def set_num_batches(epochs: Any, batches: int | None) -> None:
    """What a `TFEpochIterator` takes for the length of an epoch; its adapter knows another."""
    epochs._num_batches = batches


def strategy_of_epochs(epochs: Any) -> Any:
    """The strategy under which a `TFEpochIterator` reads."""
    return epochs._distribute_strategy


def clipped(optimizer: Any, gradients: Any) -> Any:
    """What `clipnorm` and its kin make of these gradients."""
    return optimizer._clip_gradients(gradients)


def variables_of_optimizer(optimizer: Any) -> Any:
    """The variables that Keras's `optimizer` was built for."""
    return optimizer._trainable_variables


def strategy_of_optimizer(optimizer: Any) -> Any:
    """The strategy in whose scope Keras's `optimizer` was made."""
    return optimizer._distribution_strategy


def strategy_of_variable(variable: Any) -> Any:
    """The strategy in whose scope a variable was made; None for a plain one."""
    return getattr(components(variable)[0], "_distribute_strategy", None)


def set_num_steps(dataset: Any, steps: int) -> None:
    """What the distributed `dataset` says of its length: steps, or tf.data's other numbers."""
    dataset._cardinality = np.int64(steps)


def _pipelines(dataset: Any) -> str:
    is_made = isinstance(dataset, DistributedDatasetsFromFunction)
    return "_datasets" if is_made else "_cloned_datasets"


def of_one_replica(element_spec: Any) -> Any:
    """The spec of what one replica gets, where each local one has its own."""
    return tf.nest.map_structure(
        lambda spec: getattr(spec, "_value_specs", (spec,))[0], element_spec
    )


def empty_value(spec: Any) -> Any:
    """A ragged, sparse or other composite value of 0 rows."""
    return _dummy_tensor_fn(spec)


def components(variable: Any) -> tuple[Any, ...]:
    """The plain variables behind a distributed or a Keras one."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return tuple(getattr(value, "values", None) or (value,))


def variable_id(variable: Any) -> str:
    """What stays the same for a variable over retraces."""
    unique: str = components(variable)[0]._unique_id  # As Keras's own `_var_key` reads it.
    return unique


def call_when_final(
    handle: tf.Tensor, watched: tf.Tensor, receive: Callable[[tf.Tensor], None]
) -> None:
    """Have the tapes that watch `watched` call `receive` with the gradient of `handle`'s variable.

    It is recorded as an operation that makes the handle of `watched`: a tape calls an operation's
    backward function once, as soon as everything that reads its result has been differentiated.
    No public function records an operation that has run before.
    """

    def backward(gradient: tf.Tensor) -> list[None]:
        receive(gradient)
        return [None]

    record.record_operation_backprop_only("PoseidonFinal", [handle], [watched], backward)


def is_watched(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a tape that is recording now watches one of these tensors."""
    watched: bool = record.should_record_backprop(list(tensors))
    return watched


def captured_from_outside(placeholder: tf.Tensor) -> tf.Tensor | None:
    """The tensor of an enclosing graph that stands behind a function's `placeholder`, if any."""
    for outer, inner in getattr(placeholder.graph, "captures", ()):
        if inner.name == placeholder.name:
            return outer
    return None


# What others take from TensorFlow and Keras through this file.
__all__ = [
    "distribute_lib",
    "DistributedDataset",
    "DistributedDatasetsFromFunction",
    "DistributedDatasetSpec",
    "DistributedIterator",
    "DistributedIteratorSpec",
    "Functional",
    "input_util",
    "LossScaleOptimizer",
    "Mirrored",
    "MirroredExtended",
    "PerReplica",
    "random_seed",
    "regroup",
    "SyncOnReadVariable",
    "TensorFlowTrainer",
    "TFEpochIterator",
    "TFOptimizer",
]
