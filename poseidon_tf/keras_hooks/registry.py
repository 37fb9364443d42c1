"""What Keras does not ask of a strategy and a cluster needs: puts hooks around its methods.

Each acts only under a PoseidonStrategy and otherwise calls what was there before.
"""

from __future__ import annotations

from poseidon_tf.keras_hooks import (
    data,
    optimizers,
    predictions,
    randomness,
    script_writers,
    trainer,
)
from poseidon_tf.strategy import tf_internals


def install() -> None:
    """Put the hooks in place; a second call changes nothing."""
    optimizer, fits = tf_internals.TFOptimizer, tf_internals.TensorFlowTrainer
    for cls, name, hook in (
        (optimizer, "_backend_update_step", optimizers.update_step),
        (optimizer, "_clip_gradients", optimizers.clip_gradients),
        (tf_internals.LossScaleOptimizer, "_tf_apply", optimizers.loss_scale_step),
        (tf_internals.LossScaleOptimizer, "scale_loss", optimizers.scale_loss),
        (fits, "fit", trainer.fit),
        (fits, "evaluate", trainer.evaluate),
        (fits, "predict", predictions.predict),
        (fits, "train_on_batch", trainer.train_on_batch),
        (fits, "_get_metrics_result_or_logs", trainer.metrics_result),
    ):
        tf_internals.replace_method(cls, name, hook)
    data.install()
    randomness.install()
    script_writers.install()
