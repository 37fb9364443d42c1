"""Decides whether a step's gradients are looked at for NaN and infinity before they are sent.

Gradients of a scaled loss overflow by right: the optimizer skips the step and halves the scale. So
they are not looked at while the scale is above 1. A NaN that stays halves it step by step, and is
reported when nothing is scaled up any more.
"""

from __future__ import annotations

from typing import Any, final

import keras
import tensorflow as tf


@final
class NumericChecks:
    """What is known of the losses that the gradients come of.

    Args:
      is_on: whether the user asked for it.
    """

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._last_scaler: Any = None

    def scaled_by(self, optimizer: Any) -> None:
        """A loss was scaled by `optimizer`, a loss-scale optimizer."""
        self._last_scaler = optimizer

    def for_gradients_of(self, optimizer: Any) -> bool | tf.Tensor | None:
        """Whether to look, as a value or a scalar tensor; None: never.

        Args:
          optimizer: the gradients'; None if a tape has them summed and no one knows whose they
            are. Then they may come of any loss that was scaled here before.
        """
        if not self._is_on:
            return None
        scaler = self._last_scaler if optimizer is None else optimizer
        if not isinstance(scaler, keras.optimizers.LossScaleOptimizer):
            return True
        scale = scaler.dynamic_scale if scaler.built else scaler.initial_scale
        return tf.less_equal(tf.convert_to_tensor(scale), 1.0)
