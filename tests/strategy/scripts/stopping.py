"""Callbacks that end `fit`, on one worker or on several; each worker says where it stopped."""

import hashlib
import sys
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf
from poseidon_tf import PoseidonStrategy

BATCH, ROWS = 12, 96  # Eight steps.
strategy = PoseidonStrategy(deadlines=poseidon_tf.Deadlines(start_s=40, step_s=40))
random = np.random.default_rng(4)
x = random.normal(size=(ROWS, 6)).astype("float32")
y = random.normal(size=(ROWS, 1)).astype("float32")


class StopAt(keras.callbacks.Callback):
    """Wants to stop at the end of one batch, or epoch, or in a validation."""

    def __init__(self, *, step: int = 0, epoch: int = 0, test_batch: int = 0) -> None:
        super().__init__()
        self.step, self.epoch, self.test_batch = step, epoch, test_batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 >= self.step > 0:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 == self.epoch:
            self.model.stop_training = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.test_batch:
            self.model.stop_training = True


class StopBefore(keras.callbacks.Callback):
    """Has no hook at the end of a batch: Keras may call the other callbacks in its threads."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == 3:
            self.model.stop_training = True


class Evaluating(keras.callbacks.Callback):
    """All workers evaluate in the middle of an epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 3:
            result("evaluated", float(self.model.evaluate(x, y, BATCH, 0)))


def train(
    name: str,
    callbacks: list[Any],
    *,
    epochs: int = 2,
    features: Any = x,
    optimizer: Any = lambda: keras.optimizers.SGD(0.05),
    steps_per_execution: int = 1,
    run_eagerly: bool = False,
    **arguments: Any,
) -> None:
    keras.utils.set_random_seed(6)
    steps: list[int] = []
    counting = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile(
            optimizer(),
            "mse",
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
        )
    history = model.fit(
        features,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, counting],
        **arguments,
    )
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    result(
        name,
        {
            "steps": len(steps) * steps_per_execution,
            "epochs": len(history.history["loss"]),
            "digest": hashlib.sha256(weights).hexdigest(),
            "kept": "train_function" in vars(model) and "_execute" in repr(model.train_function),
        },
    )


def only_on(rank: int, callback: Any) -> list[Any]:
    return [callback] if strategy.rank == rank else []


def main() -> None:
    last = strategy.num_workers - 1
    train("all", [StopAt(step=4)])
    train("last-rank", only_on(last, StopAt(step=4)))
    train("rank-0", only_on(0, StopAt(step=4)))
    train("two-ranks", [StopAt(step=4)] if strategy.rank != 1 else [])
    train("last-step", only_on(last, StopAt(step=8)))
    train("epoch-end", only_on(last, StopAt(epoch=1)))
    train("validation", only_on(last, StopAt(test_batch=1)), validation_data=(x[:24], y[:24]))
    train("before", only_on(last, StopBefore()))
    # In the second execution: older Keras numbers it by its first step, newer Keras by its last.
    train("several-steps", only_on(last, StopAt(step=3)), steps_per_execution=2)
    train("eager", only_on(last, StopAt(step=4)), run_eagerly=True)
    train(
        "accumulation",
        only_on(last, StopAt(step=3)),
        optimizer=lambda: keras.optimizers.SGD(0.05, gradient_accumulation_steps=4),
    )
    bad = x.copy()
    bad[BATCH + BATCH // strategy.num_workers * last] = np.nan  # In the last rank's second share.
    train("nan", [keras.callbacks.TerminateOnNaN()], features=bad)
    train("evaluating", [Evaluating(), *only_on(last, StopAt(step=4))])
    train("undisturbed", [])


if "epochs" in sys.argv:
    train("never", [], epochs=2 + strategy.rank)
elif "rows" in sys.argv:
    train("never", [], features=np.random.default_rng(strategy.rank).permutation(x))
else:
    main()
