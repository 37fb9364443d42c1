"""Numbers for every replica, programs run in both modes, and how what comes of them is shown.

Every replica's numbers are made from its id, and are whole, so that sums have the same bits in any
order. A tensor is shown as its dtype, shape and bytes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def shown(strategy: Any, value: Any) -> Any:
    """By local replica, the tensors of a structure."""
    return tf.nest.map_structure(
        lambda each: [bits(tensor) for tensor in strategy.experimental_local_results(each)],
        value,
        expand_composites=False,
    )


def bits(value: Any) -> list[Any]:
    if isinstance(value, tf.IndexedSlices):
        return ["rows", bits(value.values), bits(value.indices)]
    array = tf.convert_to_tensor(value).numpy()
    return [str(array.dtype), list(array.shape), array.tobytes().hex()]


def by_replica(strategy: Any, make: Callable[..., Any]) -> Any:
    """A value that `make` makes of each replica's id."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(
            tf.convert_to_tensor, make(context.replica_id_in_sync_group)
        )
    )


def run(strategy: Any, replica_fn: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What each replica returns, eagerly and in a function."""

    @tf.function
    def in_function(*args: Any) -> Any:
        return strategy.run(replica_fn, args)

    return {
        "eager": shown(strategy, strategy.run(replica_fn, args)),
        "function": shown(strategy, in_function(*args)),
    }


def across(strategy: Any, fn: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What `fn` returns outside of any replica, eagerly and in a function."""
    return {
        "eager": shown(strategy, fn(*args)),
        "function": shown(strategy, tf.function(fn)(*args)),
    }


def numbers(first: int, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    count = int(np.prod(shape))
    return np.arange(first, first + count).reshape(shape).astype(dtype)


def replica() -> Any:
    return tf.distribute.get_replica_context()
