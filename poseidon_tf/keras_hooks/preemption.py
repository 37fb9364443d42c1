"""What `fit` leaves behind when all workers end it because one was asked to: Keras's backup."""

from __future__ import annotations

import logging
from typing import Any

import keras

from poseidon_tf.keras_hooks.progress import Progress
from poseidon_tf.keras_hooks.writers import for_rank
from poseidon_tf.session.preemption import EXIT_CODE, Preempted
from poseidon_tf.strategy import fit_internals
from poseidon_tf.strategy.writing import Writing

_log = logging.getLogger("poseidon_tf")


def save_backups(
    writing: Writing, callbacks: Any, progress: Progress, preempted: Preempted
) -> None:
    """Have each BackupAndRestore write its backup, on rank 0, or wherever callbacks write.

    Args:
      callbacks: what `fit` was given.
      progress: of the `fit` that ends. If training has not begun there is nothing new to save.
    """
    own = for_rank(writing, callbacks)
    backups = [each for each in own if isinstance(each, keras.callbacks.BackupAndRestore)]
    if not progress.has_begun:
        saved = "training had not begun, nothing is saved"
    elif backups:
        for backup in backups:
            fit_internals.write_backup(backup)
        folders = ", ".join(str(backup.backup_dir) for backup in backups)
        saved = f"saved in {folders}, to go on {progress.said()}"
    elif not writing.is_here:
        saved = "what is saved is saved by rank 0"
    else:
        saved = "nothing is saved: fit was given no BackupAndRestore"
    _log.warning(
        "%s: fit ends on all workers, with exit code %d; %s", preempted.reason, EXIT_CODE, saved
    )
