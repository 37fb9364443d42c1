"""What `fit` leaves behind when all workers end it because one was asked to: Keras's backup."""

from __future__ import annotations

import logging
from typing import Any

import keras

from poseidon_tf.keras_hooks.writers import for_rank
from poseidon_tf.session.preemption import EXIT_CODE, Preempted
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.writing import Writing

_log = logging.getLogger("poseidon_tf")


def save_backups(writing: Writing, callbacks: Any, epoch: int | None, preempted: Preempted) -> None:
    """Have each BackupAndRestore write its backup, on rank 0, or wherever callbacks write.

    Args:
      callbacks: what `fit` was given.
      epoch: at whose beginning `fit` is to go on, with the values of this moment: Keras keeps no
        place within an epoch. None: training has not begun, so there is nothing new to save.
    """
    own = for_rank(writing, callbacks)
    backups = [each for each in own if isinstance(each, keras.callbacks.BackupAndRestore)]
    if epoch is None:
        saved = "training had not begun, nothing is saved"
    elif backups:
        for backup in backups:
            tf_internals.write_backup(backup, epoch)
        folders = ", ".join(str(backup.backup_dir) for backup in backups)
        saved = f"saved in {folders}, to go on at the beginning of epoch {epoch}"
    elif not writing.is_here:
        saved = "what is saved is saved by rank 0"
    else:
        saved = "nothing is saved: fit was given no BackupAndRestore"
    _log.warning(
        "%s: fit ends on all workers, with exit code %d; %s", preempted.reason, EXIT_CODE, saved
    )
