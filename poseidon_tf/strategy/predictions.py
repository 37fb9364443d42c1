"""`predict` on several workers: every worker gets all rows, in the dataset's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from poseidon_tf.strategy.keras_trainer_hooks import verbosity
from poseidon_tf.strategy.keras_writers import arranged
from poseidon_tf.strategy.strategy import ClusterStrategy, among_others
from poseidon_tf.wire import arrays


class _RowCounts(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes how many rows each batch of a prediction has on this worker."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras has flattened a dict of outputs by now, and made a float of a lone value.
        output = tf.nest.flatten(logs)[0]
        self.rows.append(int(output.shape[0]) if hasattr(output, "shape") else 1)


def predict(original: Callable[..., Any]) -> Callable[..., Any]:
    def predict(
        self: Any,
        x: Any,
        batch_size: Any = None,
        verbose: Any = "auto",
        steps: Any = None,
        callbacks: Any = None,
    ) -> Any:
        strategy = among_others(self.distribute_strategy)
        if strategy is None:
            return original(self, x, batch_size, verbose, steps, callbacks)
        counts = _RowCounts()
        # Several steps in one execution come back as one batch, in which ranks cannot take turns.
        steps_per_execution, self.steps_per_execution = self.steps_per_execution, 1
        try:
            with arranged(strategy, callbacks, self, first=[counts], last=[]) as arrangement:
                own = original(
                    self,
                    x,
                    batch_size=batch_size,
                    verbose=verbosity(strategy, verbose),
                    steps=steps,
                    callbacks=arrangement,
                )
        finally:
            self.steps_per_execution = steps_per_execution
        own_rows = np.asarray(counts.rows, np.int64)
        rows = [
            np.frombuffer(part, np.int64)
            for part in strategy.gather_bytes("rows predicted", own_rows.tobytes())
        ]
        return tf.nest.map_structure(lambda array: _in_order(strategy, array, rows), own)

    return predict


def _in_order(strategy: ClusterStrategy, own: Any, rows: Sequence[Any]) -> Any:
    """All workers' rows: batch after batch, and in each batch in the order of the dataset."""
    packed = arrays.pack([np.asarray(own)])
    shares = [
        np.split(arrays.unpack(part)[0], np.cumsum(rows[rank])[:-1])
        for rank, part in enumerate(strategy.gather_bytes("prediction", packed))
    ]
    num_batches = max(len(share) for share in shares)
    num_replicas = strategy.extended.num_local_replicas
    pieces: list[Any] = []
    for batch in range(num_batches):
        of_ranks = [share[batch] for share in shares if batch < len(share)]
        pieces += in_turns(of_ranks, num_replicas=num_replicas)
    return np.concatenate(pieces)


def in_turns(shares: Sequence[Any], *, num_replicas: int) -> list[Any]:
    """One batch in its order, from the share of each worker, of whose replicas each has a piece.

    TensorFlow cuts a batch for R replicas into pieces of an Rth of it, rounded up, the last ones
    being shorter or empty, and deals them out: to the first replica of every worker, then to the
    second. Shares of other sizes come of other data on each worker, and have no such order.
    """
    num_workers = len(shares)
    num_rows, num_pieces = sum(len(share) for share in shares), num_workers * num_replicas
    whole = -(-num_rows // num_pieces)
    sizes = [min(whole, max(0, num_rows - at * whole)) for at in range(num_pieces)]
    cut = []
    for rank, share in enumerate(shares):
        own = sizes[rank::num_workers]
        if sum(own) != len(share):
            return list(shares)
        cut.append(np.split(share, np.cumsum(own)[:-1]))
    return [pieces[replica] for replica in range(num_replicas) for pieces in cut]
