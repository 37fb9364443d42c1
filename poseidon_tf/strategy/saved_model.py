"""What the planner needs to know of a Keras model, without a cluster: from one traced step."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import ModelDescription, VariableSpec
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.exchange import unique_names
from poseidon_tf.strategy.gradients.sparse_optimizers import why_rows
from poseidon_tf.strategy.graph.describe import describe
from poseidon_tf.strategy.graph.shares import shares_of_step


def specs_of_saved_model(path: str, *, batch_size: int) -> list[VariableSpec]:
    """The trainable variables of the model in the file `path`.

    Args:
      batch_size: rows of one worker's batch.

    Raises:
      ConfigError: the file holds no Keras model, or one whose inputs are not known.
    """
    model = _loaded(path)
    return specs_of_model(model, optimizer=_optimizer_of_saved_model(path), batch_size=batch_size)


def description_of_saved_model(path: str, *, batch_size: int) -> ModelDescription:
    """What foretells a step of the model in the file `path`: its variables, and parts of its step.

    Args:
      batch_size: rows of one worker's batch.

    Raises:
      ConfigError: the file holds no Keras model, or one whose inputs are not known.
    """
    model = _loaded(path)
    optimizer = _optimizer_of_saved_model(path)
    specs = specs_of_model(model, optimizer=optimizer, batch_size=batch_size)
    names: list[str] = []
    variables: list[tf.Variable] = []
    gradients: list[Any] = []

    def take(own: list[Any], of_each: list[Any]) -> None:
        names.extend(unique_names(own))
        variables.extend(tf_internals.components(variable)[0] for variable in own)
        gradients.extend(of_each)

    traced = _trace(model, take, batch_size=batch_size)
    shares = shares_of_step(
        traced,
        dict(zip(names, variables, strict=True)),
        dict(zip(names, gradients, strict=True)),
    )
    return ModelDescription(
        batch_size=batch_size,
        step_flops=shares.flops,
        specs=tuple(specs),
        needed=shares.needed,
        exists=shares.exists,
    )


def _loaded(path: str) -> Any:
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError) as failure:
        raise ConfigError(f"cannot load a Keras model from {path!r}: {failure}") from failure
    if isinstance(model, (keras.Sequential, tf_internals.Functional)):
        # Loading gives variables shorter paths than building does, and jobs build.
        model = keras.models.clone_model(model)
    return model


def _optimizer_of_saved_model(path: str) -> Any:
    """The optimizer that the model was compiled with; None if it had none, or one of the user's.

    Loading the model would do the same, and fail where its loss or metric is the user's.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        compiled = json.loads(archive.read("config.json")).get("compile_config") or {}
    config = compiled.get("optimizer")
    if not isinstance(config, dict) or config.get("module") != "keras.optimizers":
        return None
    return keras.optimizers.deserialize(config)


def specs_of_model(model: Any, *, optimizer: Any = None, batch_size: int) -> list[VariableSpec]:
    """The trainable variables of `model`, in the order in which it lists them.

    Args:
      optimizer: that it trains with; None if that is not known.
      batch_size: rows of one worker's batch.

    The step is that of a training job but for its loss: how an output's error is made does not
    change which gradients are products of two factors.
    """
    found: list[VariableSpec] = []

    def take(variables: list[Any], gradients: list[Any]) -> None:
        specs, _ = describe(
            unique_names(variables),
            gradients,
            [tf_internals.components(variable)[0] for variable in variables],
            batch_size=batch_size,
            why_rows=why_rows(optimizer),
        )
        found.extend(specs)

    _trace(model, take, batch_size=None)
    return found


def _trace(
    model: Any, take: Callable[[list[Any], list[Any]], None], *, batch_size: int | None
) -> Any:
    """A step of `model`, traced, as a concrete function.

    Args:
      take: is given the variables that have gradients, and these, while the step is traced.
      batch_size: that its shapes are traced for; None leaves it open, as jobs do.
    """
    if not getattr(model, "inputs", None):
        raise ConfigError(
            f"model {model.name!r} does not say which inputs it takes; call it once on data, or "
            "build it with keras.Input, before saving it"
        )

    def step(*inputs: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=True)
            # Not linear in the outputs: their errors must depend on the data, as a loss's do.
            terms = [tf.reduce_sum(tf.square(output)) for output in tf.nest.flatten(outputs)]
            loss = tf.add_n([*terms, *(tf.cast(loss, terms[0].dtype) for loss in model.losses)])
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        pairs = [
            (variable, gradient)
            for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
            if gradient is not None
        ]
        take([variable for variable, _ in pairs], [gradient for _, gradient in pairs])

    signature = [tf.TensorSpec([batch_size, *i.shape[1:]], i.dtype) for i in model.inputs]
    return tf.function(step, autograph=False).get_concrete_function(*signature)
