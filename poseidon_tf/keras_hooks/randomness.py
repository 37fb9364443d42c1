"""Random numbers in replicas: each draws its own, from a state that is the same everywhere.

Dropout with one mask on all shares of a batch would not be what one process does, whose mask has a
row of its own for every sample. The state of a `keras.random.SeedGenerator` advances alike in all
replicas and is agreed on like weights. So whatever sets it, a seed of the user's, a checkpoint or a
second `fit`, sets the draws of all replicas, and the first replica's are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.strategy.strategy import runtime_of_replica

# 2**32 over the golden ratio: its multiples are far apart, so that a replica's seeds do not meet
# those of a neighbouring layer's generator, whatever small numbers a user takes for seeds.
_STRIDE = 0x9E3779B9


def _next(original: Callable[..., Any]) -> Callable[..., Any]:
    def next(self: Any, *args: Any, **kwargs: Any) -> Any:
        seed = original(self, *args, **kwargs)
        runtime = runtime_of_replica()
        if runtime is None or not tf.is_tensor(seed):
            return seed
        return seed + tf.constant([runtime.replica * _STRIDE % 2**32, 0], seed.dtype)

    return next


HOOKS = (
    Hook(
        keras.random.SeedGenerator,
        "next",
        _next,
        "each replica draws its own numbers, of a state that is the same everywhere",
    ),
)
