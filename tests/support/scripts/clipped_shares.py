"""Training on clipped shares by hand, in one process: every step's sum is made with NumPy."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf


def train(
    model: Any,
    optimizer: Any,
    loss: Any,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    num_workers: int,
    **clip: float,
) -> list[np.ndarray]:
    """The weights after one step per batch, each cut into a share per worker."""
    for x, y in batches:
        shares = []
        for own_x, own_y in zip(np.split(x, num_workers), np.split(y, num_workers), strict=True):
            with tf.GradientTape() as tape:
                own_loss = loss(own_y, model(own_x, training=True)) / num_workers
            found = tape.gradient(own_loss, [v.value for v in model.trainable_variables])
            shares.append(clipped([gradient.numpy() for gradient in found], **clip))
        sums = [tf.constant(sum(parts)) for parts in zip(*shares, strict=True)]
        optimizer.apply(sums, model.trainable_variables)
    weights: list[np.ndarray] = model.get_weights()
    return weights


def clipped(
    gradients: list[np.ndarray],
    *,
    clipnorm: float = 0.0,
    clipvalue: float = 0.0,
    global_clipnorm: float = 0.0,
) -> list[np.ndarray]:
    """One worker's gradients, clipped in the one way that is given; it must change them."""
    if clipvalue:
        after = [np.clip(each, -clipvalue, clipvalue) for each in gradients]
    elif clipnorm:
        after = [each * clipnorm / max(clipnorm, float(np.linalg.norm(each))) for each in gradients]
    else:
        norm = np.sqrt(sum(np.sum(each**2) for each in gradients))
        after = [each * global_clipnorm / max(global_clipnorm, norm) for each in gradients]
    assert not all(map(np.array_equal, after, gradients)), "nothing is clipped"
    return after
