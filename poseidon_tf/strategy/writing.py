"""Whether this worker writes files for the job, and what it says of those that it does not."""

from __future__ import annotations

import logging
from typing import final

from poseidon_tf.strategy.options import WriteOn

_log = logging.getLogger("poseidon_tf")


@final
class Writing:
    """What one worker among others writes.

    Attributes:
      is_here: whether callbacks of Keras and the script's own saving write on this worker.
    """

    def __init__(self, rank: int, write_on: WriteOn) -> None:
        self._rank = rank
        self.is_here = rank == 0 or write_on == "all"
        self._told: set[str] = set()

    def left_out(self, method: str) -> None:
        """Say that `method` wrote nothing here, once for each."""
        if method not in self._told:
            self._told.add(method)
            _log.warning(
                "%s writes nothing on rank %d: rank 0 writes for the job; with "
                'PoseidonStrategy(write_on="all") this worker writes as well',
                method,
                self._rank,
            )
