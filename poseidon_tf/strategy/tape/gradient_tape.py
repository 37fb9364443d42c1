"""The public tape: TensorFlow's, whose gradients are sums over all workers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, NoReturn, final

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.overwritten import refuse_overwritten
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import ClusterStrategy, runtime_of


@final
class GradientTape(tf.GradientTape):  # type: ignore[misc]
    """A `tf.GradientTape` for custom loops; its `gradient` is summed over all workers.

        def step(x, y):
            with poseidon_tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        strategy.run(step, args=batch)

    In eager mode, from the second step on, each gradient leaves for the other workers while the
    layers below are still being differentiated: one or two operations late, since TensorFlow works
    off a tape in the order in which operations become ready. In `tf.function` it leaves as soon as
    it exists, and kernels may travel as factors, just as where the optimizer sums.

    The sum is over all replicas, and is not their mean. So, as everywhere in `tf.distribute`, each
    divides its loss by `strategy.num_replicas_in_sync` before; objects of `keras.losses` do that by
    themselves. `optimizer.apply` in the same step takes the gradients as they are, also when they
    have been changed in between (clipped, for example), and does not sum again.

    Sources are variables. Every worker asks for the same ones in the same order, in every step.
    What no worker's loss depends on has the gradient None. A variable that has had a gradient
    before, and in this step has none on this worker, contributes zeros.

    Alone, without other workers, the results are those of `tf.GradientTape`.

    Args:
      persistent: whether `gradient` may be called more than once; each call sums its own result.
      watch_accessed_variables: whether trainable variables are watched as they are read.

    Raises:
      ConfigError: not within the function that a `PoseidonStrategy` runs in `strategy.run` (or
        `model.fit` in its `train_step`).
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        _runtime_here()
        super().__init__(persistent=persistent, watch_accessed_variables=watch_accessed_variables)
        self._is_persistent = persistent
        self._has_recorded = False

    def __enter__(self) -> GradientTape:
        self._has_recorded = True
        super().__enter__()
        return self

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: tf.UnconnectedGradients = tf.UnconnectedGradients.NONE,
    ) -> Any:
        """The gradients of `target`, summed over all workers; all of them call it together.

        Args:
          target: tensors to differentiate, in any nested structure.
          sources: variables, in any nested structure, the same on all workers.
          output_gradients: one for each tensor of `target`, or None for ones.
          unconnected_gradients: what stands for the gradient of a variable that no target depends
            on: None, or zeros, which are summed like any gradient.

        Returns:
          One tensor, `tf.IndexedSlices` where `tf.GradientTape` gives them, or None for each
          variable, in the structure of `sources`.

        Raises:
          ConfigError: a source is no variable, or one that Keras overwrites with its gradient, or
            a tape around this one records second derivatives.
          PlanError: another worker asks for other variables, or others of them have a gradient.
        """
        runtime = _runtime_here()
        given = tf.nest.flatten(sources)
        for source in given:
            if not isinstance(source, (tf.Variable, keras.Variable)):
                raise ConfigError(
                    "poseidon_tf.GradientTape sums the gradients of variables over the workers, "
                    f"got the source {source!r}; for gradients of anything else, which belong to "
                    "this worker alone, use tf.GradientTape"
                )
        by_id = {tf_internals.variable_id(source): source for source in given}
        keys, variables = list(by_id), list(by_id.values())
        if runtime is not None:
            refuse_overwritten(variables)
        sums = self._sums(
            runtime if tf_internals.is_tracing_for_real() else None,
            target,
            variables,
            {
                "output_gradients": output_gradients,
                "unconnected_gradients": unconnected_gradients,
            },
        )
        return tf.nest.pack_sequence_as(
            sources, [sums[keys.index(tf_internals.variable_id(source))] for source in given]
        )

    def jacobian(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a jacobian has one row per sample of this worker, and no sum over workers.

        Raises:
          ConfigError: always.
        """
        raise ConfigError(
            "poseidon_tf.GradientTape has no jacobian: it is this worker's alone, and not summed; "
            "use tf.GradientTape for it"
        )

    batch_jacobian = jacobian

    def _sums(
        self,
        runtime: Runtime | None,
        target: Any,
        variables: Sequence[Any],
        options: dict[str, Any],
    ) -> list[Any]:
        """`gradient` of a flat list of different variables."""
        # A tape that has been used up says so itself.
        if runtime is None or not self._has_recorded or not variables:
            return list(super().gradient(target, list(variables), **options))
        watched = tf.zeros([])
        self.watch(watched)
        is_recording = tf_internals.is_watched([watched])
        self._refuse_second_derivatives(is_recording, variables)
        tape_sums = runtime.tape
        if not tf.executing_eagerly() or runtime.worker.num_replicas > 1:
            # A trace needs no help to send early; eager replicas run one after the other.
            self._has_recorded = self._is_persistent
            local = super().gradient(target, list(variables), **options)
            return tape_sums.of_whole_pass(local, variables)
        tape_sums.eager.refuse_weights()
        backward_pass = tape_sums.eager.begin(variables)
        try:
            seen = {id(variable.handle) for variable in self.watched_variables()}
            with contextlib.nullcontext() if is_recording else self:
                self.watch(watched)  # Once more: without a tape that records it had no effect.
                for position, variable in enumerate(variables):
                    if id(variable.handle) in seen:
                        receive = functools.partial(backward_pass.final, position)
                        tf_internals.call_when_final(variable.handle, watched, receive)
            self._has_recorded = self._is_persistent
            local = super().gradient(target, list(variables), **options)
            sums = backward_pass.finish(local)
        except BaseException as failure:
            backward_pass.abandon(failure)
            raise
        return tape_sums.marked(sums, variables)

    def _refuse_second_derivatives(self, is_recording: bool, variables: Sequence[Any]) -> None:
        """No tape may record the backward pass: a sum over workers has no derivative here."""
        with self.stop_recording() if is_recording else contextlib.nullcontext():
            others = tf_internals.is_watched([variable.handle for variable in variables])
        if others or (is_recording and self._is_persistent):
            raise ConfigError(
                "a tape is recording while poseidon_tf.GradientTape.gradient is called: the sum "
                "over all workers cannot be differentiated once more; call it outside of every "
                "tape's context, and use tf.GradientTape for inner derivatives"
            )


def _runtime_here() -> Runtime | None:
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, ClusterStrategy):
        raise ConfigError(
            "poseidon_tf.GradientTape is for functions that a PoseidonStrategy runs, got "
            f"{type(strategy).__name__}; call the step with strategy.run(step, args=...), or use "
            "tf.GradientTape"
        )
    if tf.distribute.in_cross_replica_context():
        raise ConfigError(
            "poseidon_tf.GradientTape works within a replica, not directly under strategy.scope(); "
            "put the step into a function and call it with strategy.run(step, args=...)"
        )
    return runtime_of(strategy)
