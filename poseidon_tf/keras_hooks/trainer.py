"""Hooks in Keras's trainer: what `fit` and its kin need where several workers run them.

- `fit`: the workers begin alike and stop together; rank 0 alone writes files and draws a bar.
- `evaluate`, `fit`: metrics are those of all workers at the end of an epoch.
- `train_on_batch`: the workers begin alike; each gives its own share of the batch.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Mapping
from typing import Any

import keras

from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks.deferred import DeferredUpdates, impossible
from poseidon_tf.keras_hooks.fit_start import (
    FirstValues,
    RestoredValues,
    agree_on_start,
    own_variables_of,
    trained_variables_of,
    variables_of,
)
from poseidon_tf.keras_hooks.fit_summary import SummaryOfFit
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.keras_hooks.metrics import results_of_all
from poseidon_tf.keras_hooks.plans_anew import PlansAnew
from poseidon_tf.keras_hooks.preemption import save_backups
from poseidon_tf.keras_hooks.progress import Progress, TellsProgress, kind_of
from poseidon_tf.keras_hooks.resizing import KEEPS_WORKER_BATCH, refusal
from poseidon_tf.keras_hooks.stopping import StopTogether
from poseidon_tf.keras_hooks.tensorboard import scalars_for
from poseidon_tf.keras_hooks.why_in_step import first_observer, why_in_step
from poseidon_tf.keras_hooks.writers import arranged, for_rank
from poseidon_tf.session.preemption import Preempted
from poseidon_tf.strategy import fit_internals, random_seeds, tf_internals
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import runtime_of

_KERAS_BATCH_SIZE = 32  # What Keras takes where `batch_size` is None.
_FIT_ARGUMENTS = (
    "x",
    "y",
    "batch_size",
    "epochs",
    "verbose",
    "callbacks",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "initial_epoch",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
_EVALUATE_ARGUMENTS = (
    "x",
    "y",
    "batch_size",
    "verbose",
    "sample_weight",
    "steps",
    "callbacks",
    "return_dict",
)
_is_evaluating = contextvars.ContextVar("_is_evaluating", default=False)


def fit(original: Callable[..., Any]) -> Callable[..., Any]:
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, *args, **kwargs)
        if self.jit_compile is True:
            raise ConfigError(
                "jit_compile=True compiles the whole step into one piece, from which no gradient "
                "can leave early; compile the model with jit_compile=False under PoseidonStrategy"
            )
        named = dict(zip(_FIT_ARGUMENTS, args, strict=False)) | kwargs
        callbacks = named.get("callbacks")
        own = for_rank(runtime.writing, callbacks)
        why = why_in_step(runtime.options, self, own)
        must_defer = runtime.options.defer_updates not in ("auto", False)
        keeps_worker_batch = runtime.options.on_resize == KEEPS_WORKER_BATCH
        refuses_resize = refusal(self, named, own) if keeps_worker_batch else ""
        changes, restored, why, observer, backs_up = agree_on_start(
            runtime,
            self,
            named,
            own,
            why_in_step=why,
            observer=first_observer(own),
            refusal=str(impossible(why)) if why and must_defer else refuses_resize,
        )
        deferred = None if why else DeferredUpdates(runtime, observer=observer)
        if why:
            runtime.updates.in_step(why)
        graph_seed = random_seeds.other_graphs(restored.graph_seed if restored else None)
        progress = Progress(
            runtime,
            restored,
            graph_seed=graph_seed,
            given_rows=_batch_size(named),
            keeps_worker_batch=keeps_worker_batch and backs_up,
        )
        stop = StopTogether(runtime, progress, deferred.train_function if deferred else None)
        last = [RestoredValues(runtime, progress), stop] if changes else [stop]
        if runtime.replanning is not None:
            last.append(PlansAnew(runtime, runtime.replanning, stop))
        last += scalars_for(runtime, own)
        named["verbose"] = verbosity(runtime, named.get("verbose", "auto"))
        runtime.tape.marks.forget()
        first = [FirstValues(runtime), TellsProgress(progress)]
        with (
            runtime.stops.watching(),
            progress.running(),
            runtime.data.in_fit(progress.batch_rows),
            arranged(runtime.writing, callbacks, self, first=first, last=last) as arrangement,
        ):
            summary = SummaryOfFit(runtime, named["verbose"])
            try:
                with deferred.deferring() if deferred else contextlib.nullcontext():
                    history = original(self, **named | {"callbacks": arrangement})
                summary.show()
                return history
            except Preempted as preempted:
                save_backups(runtime.writing, callbacks, progress, preempted)
                raise
            finally:
                stop.release()
                # Keras keeps it, and the next fit of the model would leave out so many epochs.
                fit_internals.set_initial_epoch(self, None)

    return fit


def _batch_size(named: Mapping[str, Any]) -> int | None:
    """Rows of a batch that `fit` makes of arrays: a dataset of them hides it behind its last one.

    Whatever brings its own batches tells by itself, or cannot tell.
    """
    if kind_of(named.get("x")) != "arrays":
        return None
    return named.get("batch_size") or _KERAS_BATCH_SIZE


def verbosity(runtime: Runtime, verbose: Any) -> Any:
    """One progress bar for the job, not one per worker, unless asked for."""
    return 0 if verbose == "auto" and runtime.worker.rank != 0 else verbose


def evaluate(original: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, *args, **kwargs)
        runtime.updates.flush("evaluate")
        named = dict(zip(_EVALUATE_ARGUMENTS, args, strict=False)) | kwargs
        named["verbose"] = verbosity(runtime, named.get("verbose", "auto"))
        callbacks = named.get("callbacks")
        token = _is_evaluating.set(True)
        try:
            # Within `fit` the callbacks are its own.
            if isinstance(callbacks, keras.callbacks.CallbackList):
                return original(self, **named)
            with arranged(runtime.writing, callbacks, self, first=[], last=[]) as arrangement:
                return original(self, **named | {"callbacks": arrangement})
        finally:
            _is_evaluating.reset(token)

    return evaluate


def metrics_result(original: Callable[..., Any]) -> Callable[..., Any]:
    def metrics_result(self: Any, logs: Any) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, logs)
        if not _is_evaluating.get():
            runtime.updates.flush("end of epoch")
            runtime.reporter.report()  # Before rank 0 can have all that is gathered here.
            runtime.stops.advance(Stopping.pause)  # The epoch of a `fit` is over.
            runtime.stops.end_if_preempted()
        return results_of_all(runtime, self, logs, lambda logs: original(self, logs))

    return metrics_result


def train_on_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    def train_on_batch(
        self: Any, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is not None:
            tf_internals.build_symbolically(self, (x, y, sample_weight))
            runtime.first_values.agree_on_new(
                variables_of(self), what="values before train_on_batch"
            )
        logs = original(self, x, y, sample_weight, *args, **kwargs)
        if runtime is not None:
            runtime.drift.took(
                1, lambda: trained_variables_of(self), own=lambda: own_variables_of(self)
            )
        return logs

    return train_on_batch


HOOKS = (
    Hook(
        tf_internals.TensorFlowTrainer,
        "fit",
        fit,
        "the workers begin alike and stop together; rank 0 alone writes files and draws a bar",
    ),
    Hook(
        tf_internals.TensorFlowTrainer,
        "evaluate",
        evaluate,
        "one bar, callbacks that write on rank 0, and metrics of all workers",
    ),
    Hook(
        tf_internals.TensorFlowTrainer,
        "train_on_batch",
        train_on_batch,
        "the workers begin alike, and what they hold is compared now and then",
    ),
    Hook(
        tf_internals.TensorFlowTrainer,
        "_get_metrics_result_or_logs",
        metrics_result,
        "metrics at the end of an epoch are those of all workers",
    ),
)
