"""Everything that is put around methods of Keras and TensorFlow, and how it is undone.

Each hook acts only under a PoseidonStrategy and otherwise calls what was there before. `HOOKS` of
each module says what it replaces, and why.
"""

from __future__ import annotations

from poseidon_tf.keras_hooks import (
    data,
    deferred,
    optimizers,
    predictions,
    randomness,
    resuming,
    script_writers,
    trainer,
)
from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.strategy.replacements import replace_method, restore_method

HOOKS: tuple[Hook, ...] = (
    *optimizers.HOOKS,
    *deferred.HOOKS,
    *trainer.HOOKS,
    *predictions.HOOKS,
    *data.HOOKS,
    *randomness.HOOKS,
    *resuming.HOOKS,
    *script_writers.HOOKS,
)


def install() -> None:
    """Put the hooks in place, as the first strategy of a process does; again changes nothing."""
    for hook in HOOKS:
        replace_method(hook.owner, hook.method, hook.wrap)


def uninstall() -> None:
    """Take them out again, as tests do; no strategy may be in use."""
    for hook in HOOKS:
        restore_method(hook.owner, hook.method)
