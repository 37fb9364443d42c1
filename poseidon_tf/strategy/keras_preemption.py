"""What `fit` leaves behind when all workers end it because one was asked to: Keras's backup."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras

from poseidon_tf.strategy import tf_internals
from poseidon_tf.sync.preemption import EXIT_CODE, Preempted

_log = logging.getLogger("poseidon_tf")


def save_backups(callbacks: Sequence[Any], epoch: int | None, preempted: Preempted) -> None:
    """Have each BackupAndRestore among this worker's `callbacks` write its backup.

    Args:
      epoch: at whose beginning `fit` is to go on, with the values of this moment: Keras keeps no
        place within an epoch. None: training has not begun, so there is nothing new to save.
    """
    backups = [each for each in callbacks if isinstance(each, keras.callbacks.BackupAndRestore)]
    if epoch is None:
        saved = "nothing has changed since training began"
    elif backups:
        for backup in backups:
            tf_internals.write_backup(backup, epoch)
        folders = ", ".join(str(backup.backup_dir) for backup in backups)
        saved = f"saved in {folders}; fit will go on at the beginning of epoch {epoch}"
    else:
        saved = "nothing is saved by this worker: its fit was given no BackupAndRestore to write"
    _log.warning(
        "%s: fit ends on all workers, with exit code %d; %s", preempted.reason, EXIT_CODE, saved
    )
