"""Which models, options and callbacks have their updates made in the step, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from poseidon_tf.keras_hooks.why_in_step import first_observer, why_in_step
from poseidon_tf.strategy.options import Options


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class OwnFunction(keras.Sequential):
    def make_train_function(self, force: bool = False) -> Any:
        return super().make_train_function(force)


class OwnApply(keras.optimizers.SGD):
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        super().apply(grads, trainable_variables)


class OwnDecay(keras.optimizers.SGD):
    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        super().exclude_from_weight_decay(var_list, var_names)


class OwnRule(keras.optimizers.SGD):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient / 2, variable, learning_rate)


@pytest.fixture(autouse=True)
def small_models_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have two numbers to train."""
    if request.function is not test_a_small_model_is_not_worth_it:
        monkeypatch.setattr("poseidon_tf.keras_hooks.why_in_step.LEAST_BYTES", 0)


def model(optimizer: Any = None, kind: Any = keras.Sequential, **options: Any) -> Any:
    made = kind([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **options)
    return made


def replaced() -> Any:
    made = model()
    made.train_step = lambda data: {}
    return made


@pytest.mark.parametrize(
    "options, make, why",
    [
        ({"defer_updates": False}, model, "defer_updates=False"),
        ({"loss_weighting": "sample"}, model, "loss_weighting"),
        ({}, lambda: model(run_eagerly=True), "run_eagerly=True"),
        ({}, lambda: model(kind=OwnStep), "OwnStep has a train_step of its own"),
        ({}, replaced, "Sequential has a train_step of its own"),
        ({}, lambda: model(kind=OwnFunction), "OwnFunction has a make_train_function of its own"),
        ({}, lambda: model(OwnApply()), "OwnApply has an apply of its own"),
        ({}, lambda: model(OwnDecay()), "OwnDecay has a exclude_from_weight_decay of its own"),
        (
            {},
            lambda: model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())),
            "LossScaleOptimizer has an apply of its own",
        ),
        (
            {},
            lambda: model(keras.optimizers.SGD(global_clipnorm=1.0)),
            "global_clipnorm=1.0 needs every sum",
        ),
        (
            {},
            lambda: model(keras.optimizers.SGD(gradient_accumulation_steps=2)),
            "gradient_accumulation_steps=2",
        ),
        ({}, lambda: model(keras.optimizers.SGD(loss_scale_factor=3.0)), "loss_scale_factor=3.0"),
        (
            {},
            lambda: model(keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=2)),
            "ema_overwrite_frequency=2",
        ),
        ({"clip": "local"}, lambda: model(keras.optimizers.SGD(clipvalue=1.0)), 'clip="local"'),
    ],
)
def test_the_first_reason_is_named(
    options: dict[str, Any], make: Callable[[], Any], why: str
) -> None:
    assert why in why_in_step(Options(**options), make(), [])


@pytest.mark.parametrize(
    "options, make",
    [
        ({}, model),
        ({"defer_updates": True}, model),
        ({}, lambda: model(OwnRule())),
        ({}, lambda: model(keras.optimizers.SGD(clipnorm=1.0, weight_decay=0.1, use_ema=True))),
        ({"clip": "local"}, model),
        *(
            ({}, lambda name=name: model(getattr(keras.optimizers, name)()))
            for name in ("Adam", "AdamW", "Nadam", "RMSprop", "Adagrad", "Lion", "Lamb", "Ftrl")
        ),
    ],
)
def test_what_can_be_deferred_has_no_reason(
    options: dict[str, Any], make: Callable[[], Any]
) -> None:
    assert why_in_step(Options(**options), make(), []) == ""


def test_executions_of_layers_that_assign_can_be_deferred() -> None:
    """What such layers reduce has the same name in a step alone and among others; unless Keras
    makes one piece of several."""
    made = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    made.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=4)
    assert why_in_step(Options(), made, []) == ""
    made.unrolled_steps_per_execution = 2
    assert "unrolled_steps_per_execution=2" in why_in_step(Options(), made, [])


def test_a_small_model_is_not_worth_it() -> None:
    """Unless it is asked for; of one that is not built yet nothing is known."""
    why = why_in_step(Options(), model(), [])
    assert why == "the model trains 12 B, and below 1.0 MiB little would be hidden"
    assert why_in_step(Options(defer_updates=True), model(), []) == ""
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile(keras.optimizers.SGD(0.1), "mse")
    assert why_in_step(Options(), unbuilt, []) == ""
    large = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512, use_bias=False)])
    large.compile(keras.optimizers.SGD(0.1), "mse")
    assert why_in_step(Options(), large, []) == ""


def test_functions_that_run_eagerly_are_no_graph_to_read_ahead_in() -> None:
    """TensorFlow has a switch of its own for that."""
    made = model()
    tf.config.run_functions_eagerly(True)
    try:
        assert "run_eagerly" in why_in_step(Options(), made, [])
    finally:
        tf.config.run_functions_eagerly(False)


class Looks(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.get_weights()


class LooksBefore(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.get_weights()


class LooksByOldName(keras.callbacks.Callback):
    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.get_weights()


class LooksAtEpochs(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.get_weights()


class Bar(keras.callbacks.ProgbarLogger):
    """Nothing of its own."""


class LookingBar(keras.callbacks.ProgbarLogger):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.get_weights()


def lambda_of(name: str) -> Any:
    return keras.callbacks.LambdaCallback(**{name: lambda *_: None})


@pytest.mark.parametrize(
    "make, observer",
    [
        (lambda _: Looks(), "Looks"),
        (lambda _: LooksBefore(), "LooksBefore"),
        (lambda _: LooksByOldName(), "LooksByOldName"),
        (lambda _: LookingBar(), "LookingBar"),
        (lambda _: lambda_of("on_train_batch_end"), "LambdaCallback"),
        (
            lambda at: keras.callbacks.ModelCheckpoint(at / "a.keras", save_freq=3),
            "ModelCheckpoint",
        ),
        (lambda at: keras.callbacks.BackupAndRestore(at, save_freq=3), "BackupAndRestore"),
        (lambda _: LooksAtEpochs(), ""),
        (lambda _: Bar(), ""),
        (lambda _: lambda_of("on_epoch_end"), ""),
        (lambda at: keras.callbacks.ModelCheckpoint(at / "a.keras"), ""),
        (lambda at: keras.callbacks.BackupAndRestore(at), ""),
        (lambda at: keras.callbacks.CSVLogger(at / "a.csv"), ""),
        (lambda at: keras.callbacks.TensorBoard(at, update_freq="batch"), ""),
        (lambda _: keras.callbacks.TerminateOnNaN(), ""),
        (lambda _: keras.callbacks.EarlyStopping(), ""),
        (lambda _: keras.callbacks.ReduceLROnPlateau(), ""),
        (lambda _: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), ""),
        (lambda _: keras.callbacks.SwapEMAWeights(), ""),
    ],
)
def test_a_callback_may_look_at_variables_if_it_has_a_batch_hook_that_is_not_known(
    tmp_path: Path, make: Callable[[Path], Any], observer: str
) -> None:
    """It counts by what it overrides; Keras's own that save by batches look, too."""
    callback = make(tmp_path)
    assert first_observer([LooksAtEpochs(), callback]) == observer
    reason = why_in_step(Options(), model(), [callback])
    assert bool(reason) == bool(observer) and observer in reason
    several = model(steps_per_execution=4)
    assert why_in_step(Options(), several, [callback]) == ""
