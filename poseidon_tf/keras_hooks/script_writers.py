"""What a script saves by hand on every worker: it is written once for the job, on rank 0.

Other ranks write nothing and say so once for each method; they wait for nobody. A checkpoint is
numbered there as on rank 0, so that the same script goes on with the same names everywhere. Its
manager lists what this worker has written: nothing. What is one file appears when it is whole.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.keras_hooks.whole_files import save_whole
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import runtime_of
from poseidon_tf.strategy.writing import Writing

_is_left_out = contextvars.ContextVar("_is_left_out", default=False)


def _save_model(original: Callable[..., Any]) -> Callable[..., Any]:
    def save_model(self: Any, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, filepath, *args, **kwargs)
        if runtime.writing.is_here:
            save, part = functools.partial(original, self), f"rank-{runtime.worker.rank}"
            return save_whole(save, filepath, *args, part=part, **kwargs)
        runtime.writing.left_out(f"Model.{original.__name__}")
        return None

    return save_model


def _save_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    def save_checkpoint(self: Any, file_prefix: Any, *args: Any, **kwargs: Any) -> Any:
        writing = _left_to_others(self)
        if writing is None:
            return original(self, file_prefix, *args, **kwargs)
        writing.left_out(f"Checkpoint.{original.__name__}")
        return _leaving_out(original, self, file_prefix)

    return save_checkpoint


def _save_managed(original: Callable[..., Any]) -> Callable[..., Any]:
    def save_managed(
        self: Any, checkpoint_number: Any = None, check_interval: bool = True, options: Any = None
    ) -> Any:
        writing = _left_to_others(self.checkpoint)
        if writing is None:
            return original(self, checkpoint_number, check_interval, options)
        writing.left_out("CheckpointManager.save")
        return _leaving_out(original, self, checkpoint_number, check_interval)

    return save_managed


def _leaving_out(original: Callable[..., Any], *args: Any) -> Any:
    """What `original` returns, without the user's options: an asynchronous one has its own way."""
    token = _is_left_out.set(True)
    try:
        return original(*args)
    finally:
        _is_left_out.reset(token)


def _write_checkpoint(original: Callable[..., Any]) -> Callable[..., Any]:
    """What all of TensorFlow's methods come down to, when names and numbers are known."""

    def write_checkpoint(self: Any, file_prefix: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_left_out.get():
            return file_prefix
        return original(self, file_prefix, *args, **kwargs)

    return write_checkpoint


def _left_to_others(checkpoint: Any) -> Writing | None:
    """Ours, if some variable of the checkpoint was made under our strategy and others write it."""
    runtime = _runtime_of_any(tf.train.TrackableView(checkpoint).descendants())
    return None if runtime is None or runtime.writing.is_here else runtime.writing


def _runtime_of_any(trackables: Iterable[Any]) -> Runtime | None:
    for each in trackables:
        variable = each.value if isinstance(each, keras.Variable) else each
        if isinstance(variable, tf.Variable):
            runtime = runtime_of(getattr(variable, "distribute_strategy", None))
            if runtime is not None:
                return runtime
    return None


_ONCE = "what a script saves is written once, on rank 0, and appears when it is whole"
HOOKS = (
    Hook(keras.Model, "save", _save_model, _ONCE),
    Hook(keras.Model, "save_weights", _save_model, _ONCE),
    Hook(keras.Model, "export", _save_model, _ONCE),
    Hook(tf.train.Checkpoint, "save", _save_checkpoint, _ONCE),
    Hook(tf.train.Checkpoint, "write", _save_checkpoint, _ONCE),
    Hook(tf.train.Checkpoint, "_write", _write_checkpoint, _ONCE),
    Hook(tf.train.CheckpointManager, "save", _save_managed, _ONCE),
)
