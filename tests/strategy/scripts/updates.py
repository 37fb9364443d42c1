"""Optimizer settings and dtypes, many small nets, alone or as one of several workers.

Argument: "local" to clip each worker's share, or "more" for other rules and types. Alone it also
clips those of two workers by hand.
"""

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import clipped_shares
import keras
import numpy as np
import shares
import shares_by_hand
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy
from poseidon_tf.strategy.graph.route import GraphRoute

BATCH, ROWS = 12, 48
local = "local" in sys.argv
strategy = PoseidonStrategy(clip="local" if local else "sum")
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")
SGD, Adam, AdamW = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW

num_pushes = 0
push_once = GraphRoute._push


def push_counted(self: Any, *arrays: Any) -> int:
    global num_pushes
    num_pushes += 1
    return push_once(self, *arrays)


GraphRoute._push = push_counted  # type: ignore[assignment, method-assign]


class Unused(keras.layers.Layer):
    """Has a variable that the loss does not depend on, and one that nothing does."""

    def build(self, shape: Any) -> None:
        self.used = self.add_weight(shape=(shape[-1],), initializer="ones", name="used")
        self.side = self.add_weight(shape=(3,), initializer="ones", name="side")
        self.never = self.add_weight(shape=(2,), initializer="ones", name="never")

    def call(self, inputs: Any) -> Any:
        self.side * 2.0  # noqa: B018 - leads nowhere.
        return inputs * self.used


def net(*layers: Any, dtype: Any = None, regularizer: Any = None) -> Any:
    return keras.Sequential(
        [
            keras.Input((6,)),
            *layers,
            keras.layers.Dense(8, "tanh", kernel_regularizer=regularizer, dtype=dtype),
            keras.layers.Dense(1, dtype=dtype),
        ]
    )


def train(
    name: str,
    optimizer: Callable[..., Any],
    build: Callable[..., Any] = net,
    *,
    epochs: int = 2,
    callbacks: Any = None,
    features: Any = x,
) -> Any:
    """Eight steps, and what they lead to."""
    keras.utils.set_random_seed(11)
    with strategy.scope():
        model = build()
        model.compile(optimizer(), "mse")
    history = model.fit(
        features,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    weights = [np.asarray(weight).astype("float64") for weight in model.get_weights()]
    joined = b"".join(weight.tobytes() for weight in weights)
    result(
        name,
        {
            "weights": [weight.tolist() for weight in weights],
            "digest": hashlib.sha256(joined).hexdigest(),
            "loss": [float(value) for value in history.history["loss"]],
        },
    )
    return model


CLIPPED: dict[str, tuple[Any, float, dict[str, float]]] = {
    "clipnorm": (Adam, 0.05, {"clipnorm": 0.05}),
    "clipvalue": (SGD, 0.5, {"clipvalue": 0.02}),
    "global_clipnorm": (SGD, 0.5, {"global_clipnorm": 0.1}),
}


def clipping() -> None:
    for name, (kind, rate, clip) in CLIPPED.items():
        train(name, lambda kind=kind, rate=rate, clip=clip: kind(rate, **clip))


def clipping_shares_by_hand() -> None:
    batches = 2 * list(zip(np.split(x, ROWS // BATCH), np.split(y, ROWS // BATCH), strict=True))
    loss = keras.losses.MeanSquaredError()
    for name, (kind, rate, clip) in CLIPPED.items():
        keras.utils.set_random_seed(11)
        weights = clipped_shares.train(net(), kind(rate), loss, batches, num_workers=2, **clip)
        result(f"{name}-by-hand", [weight.tolist() for weight in weights])


def accumulation() -> None:
    for optimizer in ("sgd", "clipped"):
        options = {"global_clipnorm": 0.05} if optimizer == "clipped" else {}
        before = num_pushes
        train(
            f"accumulation-{optimizer}",
            lambda options=options: SGD(0.1, gradient_accumulation_steps=2, **options),
        )
        result(f"pushes-{optimizer}", num_pushes - before)
    before = num_pushes
    train("plain", lambda: SGD(0.1))
    result("pushes-plain", num_pushes - before)
    # Three steps: the second fit begins in the middle of a cycle.
    keras.utils.set_random_seed(11)
    with strategy.scope():
        model = net()
        model.compile(SGD(0.1, gradient_accumulation_steps=2), "mse")
    for _ in range(2):
        model.fit(x[:36], y[:36], batch_size=BATCH, shuffle=False, verbose=0)
    result("mid-cycle", [weight.tolist() for weight in model.get_weights()])


def accumulation_with_an_empty_share() -> None:
    """A batch and one of a single row, as `fit` and a loop take it; alone by hand, for two."""
    if strategy.num_workers > 1:
        held = {"gradient_accumulation_steps": 2}
        weights, _ = shares.fit(strategy, 1, "plain", **held)
        looped, losses = shares.loop(strategy, 1, "plain", **held)
        result("empty-share-losses", losses)
    else:
        steps = [shares_by_hand.cut(batch, 2) for batch in shares.batches(1, "plain")]
        model, _ = shares_by_hand.train("plain", steps, "replica", accumulated_steps=2)
        weights = looped = model.get_weights()
    for name, found in (("fit", weights), ("loop", looped)):
        result(f"empty-share-{name}", [weight.tolist() for weight in found])


def updates() -> None:
    train("weight-decay", lambda: AdamW(0.01, weight_decay=0.1))
    train(
        "ema-overwrite", lambda: SGD(0.1, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3)
    )
    # Overwritten in steps that only add up, and in others.
    held: dict[str, Any] = {"gradient_accumulation_steps": 2, "ema_overwrite_frequency": 3}
    train("ema-overwrite-held", lambda: SGD(0.1, use_ema=True, ema_momentum=0.7, **held))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    train("ema-swap", lambda: SGD(0.1, use_ema=True, ema_momentum=0.7), callbacks=[swap])
    train("loss-scale-factor", lambda: SGD(0.1, loss_scale_factor=64.0))
    rules("Ftrl", "Lamb")
    train("regularizer", lambda: SGD(0.1), lambda: net(regularizer=keras.regularizers.L2(0.1)))
    train("unused", lambda: Adam(0.05), lambda: net(Unused()))


def rules(*names: str) -> None:
    for name in names:
        train(name, lambda name=name: getattr(keras.optimizers, name)(0.01))


def more() -> None:
    rules("RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion")
    train("ema", lambda: SGD(0.1, use_ema=True, ema_momentum=0.7))
    for dtype in ("float16", "bfloat16", "float64", "mixed_bfloat16"):
        train(dtype, lambda: SGD(0.1), lambda dtype=dtype: net(dtype=dtype))


def overflows() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    bad = x.copy()
    bad[12 * 2] = 1e30  # Rank 0's share of the third batch.
    model = train("mixed_float16", lambda: SGD(0.01), net, epochs=3, features=bad)
    result("scale", float(model.optimizer.dynamic_scale.numpy()))
    result("applied", int(model.optimizer.inner_optimizer.iterations.numpy()))
    model = train("mixed-clipped", lambda: SGD(0.1, clipnorm=0.05))
    accumulating = train("mixed-accumulation", lambda: SGD(0.1, gradient_accumulation_steps=2))
    result("wrapped", type(accumulating.optimizer).__name__)


def refused() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        train("never", lambda: SGD(0.1, clipnorm=0.05))
    except ValueError as error:
        result("refused", str(error))


if __name__ == "__main__":
    if "more" in sys.argv:
        more()
        sys.exit()
    clipping()
    if strategy.num_workers == 1:
        clipping_shares_by_hand()
    if not local:
        accumulation()
        accumulation_with_an_empty_share()
        updates()
        overflows()
    elif strategy.num_workers > 1:
        refused()
    assert tf.executing_eagerly()
