"""A PyDataset whose batches come in the same shuffled order on every worker.

Keras shuffles with Python's own generator, which every process seeds differently: workers would
take their shares of different batches.
"""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np


@final
class InOneOrder(keras.utils.PyDataset):  # type: ignore[misc]
    """`given`, shuffled anew after every epoch.

    Args:
      seed: the same on all workers.
      is_read_on: the same pass may go on in the next epoch, so that the order must stay.
    """

    def __init__(self, given: keras.utils.PyDataset, *, seed: int, is_read_on: bool) -> None:
        super().__init__(
            workers=given.workers,
            use_multiprocessing=given.use_multiprocessing,
            max_queue_size=given.max_queue_size,
        )
        self._given, self._is_read_on = given, is_read_on
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(given.num_batches)

    @property
    def num_batches(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._given[int(self._order[index])]

    def on_epoch_begin(self) -> None:
        self._given.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._given.on_epoch_end()
        if not self._is_read_on or len(self._order) != self._given.num_batches:
            self._order = self._random.permutation(self._given.num_batches)
