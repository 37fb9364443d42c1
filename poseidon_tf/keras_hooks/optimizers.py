"""Hooks in Keras's optimizers: gradients become sums there, where their variables are known.

- The update: gradients are summed over all workers.
- Clipping: it waits for the sums.
- The loss-scale optimizer: overflow is looked for in the sums, so that all workers agree, and is
  no fault of a gradient whose loss was scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks.deferred_steps import send_instead
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.overwritten import refuse_overwritten
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import ClusterStrategy, runtime_of, runtime_of_replica


def apply(original: Callable[..., Any]) -> Callable[..., Any]:
    """Only replicas apply; a step that leaves its update to the next one only sends gradients."""

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        grads = list(grads)
        variables = trainable_variables
        if variables is not None:
            trainable_variables = variables = list(variables)
        elif self.built:
            variables = tf_internals.variables_of_optimizer(self)
        _check(self, grads, variables or ())
        send = send_instead()
        if send is None:
            return original(self, grads, trainable_variables)
        send(self, grads, trainable_variables)
        return None

    return apply


def update_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_step(
        self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> Any:
        _check(self, grads, trainable_variables)
        runtime = runtime_that_sums()
        if runtime is None:
            return original(self, grads, trainable_variables, learning_rate)
        summed = _summed(runtime, self, grads, trainable_variables)
        with runtime.sums.done():
            if runtime.options.clip == "sum":
                summed = tf_internals.clipped(self, summed)
            updated = original(self, summed, trainable_variables, learning_rate)
        if tf_internals.is_tracing_for_real():
            pairs = zip(grads, trainable_variables, strict=True)
            updates = [v for gradient, v in pairs if gradient is not None]
            runtime.gradients.record_applied(updates)
        return updated

    return update_step


def clip_gradients(original: Callable[..., Any]) -> Callable[..., Any]:
    """Clips sums, as one process on the joined batch does, not each worker's share before."""

    def clip_gradients(self: Any, grads: Sequence[Any]) -> Any:
        runtime = runtime_that_sums()
        if runtime is not None and runtime.options.clip == "sum":
            return grads  # Their turn comes when they have been summed.
        return original(self, grads)

    return clip_gradients


def loss_scale_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """Sums before Keras looks for overflow: one worker's infinity is then everybody's.

    Keras looks at the local gradients, and a worker that skips its step alone would leave the
    others waiting for it.
    """

    def loss_scale_step(
        self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None
    ) -> Any:
        variables = trainable_variables or tf_internals.variables_of_optimizer(self)
        _check(self.inner_optimizer, grads, variables)  # `compile` may wrap it anywhere.
        runtime = runtime_that_sums()
        if runtime is None:
            return original(self, grads, trainable_variables)
        inner = self.inner_optimizer
        clips = inner.clipnorm or inner.clipvalue or inner.global_clipnorm
        if clips and runtime.options.clip == "local":
            # Overflow must be looked for in the sums, and clipping comes after that.
            raise ConfigError(
                "clip='local' cannot be combined with loss scaling (mixed_float16): gradients are "
                "summed before they are unscaled; use PoseidonStrategy(clip='sum')"
            )
        summed = _summed(runtime, self, grads, variables)
        with runtime.sums.done():
            return original(self, summed, trainable_variables)

    return loss_scale_step


def scale_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    def scale_loss(self: Any, loss: Any) -> Any:
        runtime = runtime_of_replica()
        if runtime is not None:
            runtime.gradients.checks.scaled_by(self)
        return original(self, loss)

    return scale_loss


def _check(optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]) -> None:
    """Raise ConfigError where an optimizer would take what is not the job's.

    Args:
      variables: those that `grads` belong to.
    """
    strategy = tf.distribute.get_strategy()
    made_under = tf_internals.strategy_of_optimizer(optimizer)
    if isinstance(strategy, ClusterStrategy) and made_under is not strategy:
        raise ConfigError(
            f"the optimizer {optimizer.name!r} was created outside of the strategy's scope; create "
            "it, or call model.compile with its name, within `with strategy.scope():`"
        )
    if runtime_of_replica() is None:
        owners = (made_under, *map(tf_internals.strategy_of_variable, variables))
        if any(runtime_of(owner) is not None for owner in owners):
            raise ConfigError(
                f"the optimizer {optimizer.name!r} was called outside of strategy.run, where this "
                "worker's gradients are not summed with those of the others; put the step into a "
                "function and call it with strategy.run(step, args=...)"
            )
        return
    pairs = zip(grads, variables, strict=False)  # Keras compares the lengths by itself.
    refuse_overwritten(variable for gradient, variable in pairs if gradient is not None)


def runtime_that_sums() -> Runtime | None:
    """What the strategy has, in a replica whose gradients have not been summed yet."""
    runtime = runtime_of_replica()
    return None if runtime is None or runtime.sums.are_done else runtime


def _summed(
    runtime: Runtime, optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]
) -> list[Any]:
    """`grads` summed over all workers; None stays None."""
    present = [at for at, gradient in enumerate(grads) if gradient is not None]
    summed = list(grads)
    if present and tf_internals.is_tracing_for_real():
        totals = runtime.sums.of_optimizer(
            optimizer, [grads[at] for at in present], [variables[at] for at in present]
        )
        for at, total in zip(present, totals, strict=True):
            summed[at] = total
    return summed


HOOKS = (
    Hook(
        tf_internals.TFOptimizer,
        "apply",
        apply,
        "outside of replicas nothing is summed, so it is refused; and a step whose update belongs "
        "to the beginning of the next one only sends its gradients",
    ),
    Hook(
        tf_internals.TFOptimizer,
        "_backend_update_step",
        update_step,
        "it knows gradients and their variables: here gradients become sums",
    ),
    Hook(
        tf_internals.TFOptimizer,
        "_clip_gradients",
        clip_gradients,
        "sums are clipped, not each worker's share",
    ),
    Hook(
        tf_internals.LossScaleOptimizer,
        "_tf_apply",
        loss_scale_step,
        "overflow is looked for in the sums, so that no worker skips a step alone",
    ),
    Hook(
        tf_internals.LossScaleOptimizer,
        "scale_loss",
        scale_loss,
        "gradients of a scaled loss overflow by right",
    ),
)
