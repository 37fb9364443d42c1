"""How fast a device multiplies matrices."""

from __future__ import annotations

import time

import tensorflow as tf

_SIZES = (512, 1024, 2048, 4096)
_LONG_ENOUGH_S = 0.02
_TURNS = 3


def flops_per_s(device: str) -> float:
    """Floating point operations a second, of square matrices of float32 large enough to tell."""
    speed = 0.0
    with tf.device(device):
        for size in _SIZES:
            factor = tf.ones((size, size))
            shortest_s = min(_seconds(factor) for _ in range(_TURNS))
            speed = max(speed, 2 * size**3 / shortest_s)
            if shortest_s >= _LONG_ENOUGH_S:
                break
    return speed


def _seconds(factor: tf.Tensor) -> float:
    begun_s = time.perf_counter()
    tf.linalg.matmul(factor, factor)[0, 0].numpy()  # Waits for the device.
    return time.perf_counter() - begun_s
