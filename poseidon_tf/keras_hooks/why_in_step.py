"""Why a `fit` updates its variables in the step, and not at the beginning of the next one.

What can be known before the first step is here; what only its trace shows is in `deferred`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.planner.table import human_bytes
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.options import Options

# Of a smaller model the sums are here before the forward pass could use the time, and to trace it
# twice takes longer than many of its steps.
LEAST_BYTES = 1 << 20
_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
# Their batch hooks look at logs, at the time, or at nothing; the others' may save the model.
_LOOK_AT_LOGS = (
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)
# What a user's optimizer may define without changing when Keras's own methods read and write.
_HARMLESS = frozenset({"build", "get_config", "from_config", "update_step"})


def why_in_step(options: Options, model: Any, callbacks: Sequence[Any]) -> str:
    """The first reason; empty if updates can be deferred.

    Args:
      callbacks: of `fit`, on this worker.
    """
    if not options.defer_updates:
        return "defer_updates=False"
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "run_eagerly=True: an eager step is not read ahead"
    kind = type(model)
    for method in ("train_step", "make_train_function"):
        is_own = getattr(kind, method) is not getattr(tf_internals.TensorFlowTrainer, method)
        if is_own or method in vars(model):
            return f"{kind.__name__} has a {method} of its own"
    if options.loss_weighting == "sample":
        return 'loss_weighting="sample": a sum is scaled by the number of all rows'
    if reason := _of_optimizer(options, model.optimizer):
        return reason
    if model.steps_per_execution > 1 and model.unrolled_steps_per_execution > 1:
        return (
            f"unrolled_steps_per_execution={model.unrolled_steps_per_execution}: a step that is "
            "taken alone would be another graph"
        )
    if model.steps_per_execution == 1 and (observer := first_observer(callbacks)):
        return f"{observer} has a batch hook, which may look at variables after every step"
    if options.defer_updates == "auto" and model.built:
        num_bytes = sum(_num_bytes(variable) for variable in model.trainable_variables)
        if num_bytes < LEAST_BYTES:
            return (
                f"the model trains {human_bytes(num_bytes)}, and below {human_bytes(LEAST_BYTES)} "
                "little would be hidden"
            )
    return ""


def _num_bytes(variable: Any) -> int:
    return int(math.prod(variable.shape)) * int(tf.as_dtype(variable.dtype).size)


def _of_optimizer(options: Options, optimizer: Any) -> str:
    if optimizer is None:
        return "the model has no optimizer"
    kind = type(optimizer)
    if getattr(kind, "apply", None) is not tf_internals.TFOptimizer.apply:
        return f"{kind.__name__} has an apply of its own, which may need every sum at first"
    own = {
        name
        for each in kind.__mro__
        if each.__module__.partition(".")[0] not in ("keras", "tensorflow")
        for name in vars(each)
        if hasattr(keras.optimizers.Optimizer, name) and not name.startswith("__")
    }
    if changed := sorted(own - _HARMLESS):
        return f"{kind.__name__} has a {changed[0]} of its own"
    for name, why in (
        ("global_clipnorm", "needs every sum before the first update"),
        ("gradient_accumulation_steps", "updates in some steps only"),
        ("loss_scale_factor", "is divided out of each worker's gradients"),
        ("ema_overwrite_frequency", "writes all variables at once"),
    ):
        if getattr(optimizer, name, None):
            return f"{name}={getattr(optimizer, name)} {why}"
    clips = getattr(optimizer, "clipnorm", None) or getattr(optimizer, "clipvalue", None)
    if clips and options.clip == "local":
        return 'clip="local": each worker clips before it sends'
    return ""


def first_observer(callbacks: Sequence[Any]) -> str:
    """The class of the first callback that may look at variables after every batch, or nothing."""
    return next((type(each).__name__ for each in callbacks if _may_observe(each)), "")


def _may_observe(callback: Any) -> bool:
    hooks = [_function(getattr(callback, name, None)) for name in _BATCH_HOOKS]
    for name, hook in zip(_BATCH_HOOKS, hooks, strict=True):
        if hook is None or hook is getattr(keras.callbacks.Callback, name):
            continue
        if any(hook is getattr(each, name) for each in _LOOK_AT_LOGS):
            continue
        saves_by_epoch = getattr(callback, "save_freq", None) == "epoch"
        if not (saves_by_epoch and hook.__module__.startswith("keras.")):
            return True
    return False


def _function(method: Any) -> Any:
    return getattr(method, "__func__", method)
