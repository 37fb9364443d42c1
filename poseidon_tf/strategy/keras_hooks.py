"""What Keras does not ask of a strategy and a cluster needs: puts hooks around its methods.

Each acts only under a PoseidonStrategy and otherwise calls what was there before.
"""

from __future__ import annotations

from poseidon_tf.strategy import (
    keras_data_hooks,
    keras_optimizer_hooks,
    keras_random_hooks,
    keras_trainer_hooks,
    predictions,
    script_writers,
    tf_internals,
)


def install() -> None:
    """Put the hooks in place; a second call changes nothing."""
    optimizer, trainer = tf_internals.TFOptimizer, tf_internals.TensorFlowTrainer
    for cls, name, hook in (
        (optimizer, "_backend_update_step", keras_optimizer_hooks.update_step),
        (optimizer, "_clip_gradients", keras_optimizer_hooks.clip_gradients),
        (tf_internals.LossScaleOptimizer, "_tf_apply", keras_optimizer_hooks.loss_scale_step),
        (tf_internals.LossScaleOptimizer, "scale_loss", keras_optimizer_hooks.scale_loss),
        (trainer, "fit", keras_trainer_hooks.fit),
        (trainer, "evaluate", keras_trainer_hooks.evaluate),
        (trainer, "predict", predictions.predict),
        (trainer, "train_on_batch", keras_trainer_hooks.train_on_batch),
        (trainer, "_get_metrics_result_or_logs", keras_trainer_hooks.metrics_result),
    ):
        tf_internals.replace_method(cls, name, hook)
    keras_data_hooks.install()
    keras_random_hooks.install()
    script_writers.install()
