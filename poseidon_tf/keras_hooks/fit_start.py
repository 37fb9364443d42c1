"""What all workers have in common when `fit` begins: arguments, values, first epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import keras
import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks import place
from poseidon_tf.keras_hooks.place import Place
from poseidon_tf.keras_hooks.progress import Progress
from poseidon_tf.keras_hooks.resuming import go_on
from poseidon_tf.keras_hooks.same_rows import refuse_other_rows, rows_of
from poseidon_tf.strategy import fit_internals, tf_internals
from poseidon_tf.strategy.runtime import Runtime

# Arguments that decide which steps there are; with others a worker would wait for steps that
# nobody else takes. With Keras's defaults.
_SAME_EVERYWHERE: Mapping[str, Any] = {
    "epochs": 1,
    "initial_epoch": 0,
    "batch_size": None,
    "steps_per_epoch": None,
    "validation_split": 0.0,
    "validation_steps": None,
    "validation_batch_size": None,
    "validation_freq": 1,
}


class Start(NamedTuple):
    """What all workers know when `fit` begins.

    Attributes:
      changes: whether some callback may change values when it begins.
      place: in rank 0's backup.
      why_in_step: why all update in the step, since one of them has to; empty if none has to.
      observer: a callback of any worker that may look at variables between two executions. All
        make what is pending before it: their graphs, and so what is reduced in them, stay alike.
      backs_up: whether any worker has a BackupAndRestore.
    """

    changes: bool
    place: Place | None
    why_in_step: str
    observer: str
    backs_up: bool


def agree_on_start(
    runtime: Runtime,
    model: Any,
    arguments: Mapping[str, Any],
    callbacks: Sequence[Any],
    *,
    why_in_step: str = "",
    observer: str = "",
    refusal: str = "",
) -> Start:
    """Compare what `fit` was given; all workers learn what decides on how it begins.

    Args:
      why_in_step: why this worker cannot defer its updates; empty if it can.
      observer: its callback that may look at variables between two executions; empty for none.
      refusal: why it cannot do what it was told; empty if it can.

    Raises:
      ConfigError: on all workers, if one was given other arguments or refuses; names the first. On
        rank 0, if its backup's place cannot be read.
    """
    mine = {name: arguments.get(name, default) for name, default in _SAME_EVERYWHERE.items()}
    mine["validation_data"] = "none" if arguments.get("validation_data") is None else "given"
    mine["steps_per_execution of compile"] = model.steps_per_execution
    mine["run_eagerly of compile"] = bool(model.run_eagerly)
    changes = any(_may_change_values(callback) for callback in callbacks)
    backups = [each for each in callbacks if isinstance(each, keras.callbacks.BackupAndRestore)]
    there = _place_in_backup(backups) if runtime.worker.rank == 0 else None
    said = {
        "changes": changes,
        "backs_up": bool(backups),
        "place": there and there.to_json(),
        "why_in_step": why_in_step,
        "observer": observer,
        "refusal": refusal,
        "rows": rows_of(arguments),
    }
    text = json.dumps([mine, said], default=str).encode()
    everyone = [json.loads(part) for part in runtime.worker.gather("call fit", text)]
    for rank, (theirs, _) in enumerate(everyone):
        for name, value in everyone[0][0].items():
            if theirs[name] != value:
                raise ConfigError(
                    f"the workers called fit with different arguments: {name} is {value} on rank 0 "
                    f"and {theirs[name]} on rank {rank}; give all workers the same"
                )
    refuse_other_rows([says["rows"] for _, says in everyone])
    for rank, (_, says) in enumerate(everyone):
        if says["refusal"]:
            raise ConfigError(f"{runtime.worker.names.one(rank)}: {says['refusal']}")
    found = everyone[0][1]["place"]
    return Start(
        any(says["changes"] for _, says in everyone),
        found and Place.from_json(found),
        next((says["why_in_step"] for _, says in everyone if says["why_in_step"]), ""),
        next((says["observer"] for _, says in everyone if says["observer"]), ""),
        any(says["backs_up"] for _, says in everyone),
    )


def _place_in_backup(backups: Sequence[Any]) -> Place | None:
    try:
        return place.read(backups)
    except (KeyError, TypeError, ValueError) as failure:
        folders = ", ".join(str(backup.backup_dir) for backup in backups)
        raise ConfigError(
            f"the backup in {folders} does not say where the data was in a way that this version "
            f"of poseidon_tf reads ({failure!r}); delete it, or go on with the version that wrote "
            "it"
        ) from failure


def _may_change_values(callback: Any) -> bool:
    """Whether a callback does something when training begins; of Keras's only a restoring one."""
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        return True
    if type(callback).__module__.startswith("keras."):
        return isinstance(callback, keras.callbacks.LambdaCallback)
    begin = getattr(callback.on_train_begin, "__func__", None)
    return begin is not keras.callbacks.Callback.on_train_begin


def variables_of(model: Any) -> list[Any]:
    """What all workers must hold alike to go on alike, states of random generators included.

    Not what each adds up of its own gradients: it differs by right.
    """
    return [*model.variables, *_optimizer_variables(model)]


def trained_variables_of(model: Any) -> list[Any]:
    """What the same updates change in the same way on all workers."""
    return [*model.trainable_variables, *_optimizer_variables(model)]


def own_variables_of(model: Any) -> list[Any]:
    """What layers assign by themselves, each replica its own: nothing sums or averages it.

    Not the states of metrics and random generators, which Keras does not count among weights; nor
    weights that are frozen, which nobody assigns.
    """
    return [v for v in model.non_trainable_weights if _is_each_replicas_own(v.value)]


def _is_each_replicas_own(value: Any) -> bool:
    return (
        not value.trainable  # When it was made; a frozen layer's were.
        and value.aggregation == tf.VariableAggregation.NONE
        and value.synchronization != tf.VariableSynchronization.ON_READ
    )


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    own = {id(variable) for variable in tf_internals.gradient_accumulators(optimizer)}
    return [v for v in getattr(optimizer, "variables", ()) if id(v) not in own]


@final
class FirstValues(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives the model and its optimizer rank 0's values before any other callback sees them."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    def on_train_begin(self, logs: Any = None) -> None:
        values = self._runtime.first_values
        values.agree(variables_of(self.model), what="values before fit")
        values.agree_on_made()  # A train_step may use more than the model knows of.


@final
class RestoredValues(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives all workers what callbacks have changed on rank 0: values, and where `fit` begins."""

    def __init__(self, runtime: Runtime, progress: Progress) -> None:
        super().__init__()
        self._runtime, self._progress = runtime, progress

    def on_train_begin(self, logs: Any = None) -> None:
        self._progress.restore_random_states(self.model)
        self._runtime.first_values.agree(variables_of(self.model), what="values restored")
        mine = None
        if self._runtime.worker.rank == 0:
            there = self._progress.to_go_on(self.model)
            mine = there or (fit_internals.initial_epoch(self.model), 0, None)
        first, *_ = self._runtime.worker.gather("begin fit", json.dumps(mine).encode())
        epoch, batch, first_epoch = json.loads(first)
        fit_internals.set_initial_epoch(self.model, epoch)
        if first_epoch is not None:
            go_on(self._progress, epoch, batch, first_epoch)
