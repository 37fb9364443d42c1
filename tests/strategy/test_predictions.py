"""Rows that the replicas of several workers predict come back in the order of the dataset."""

from __future__ import annotations

import numpy as np
import pytest

from poseidon_tf.keras_hooks.predictions import in_turns


@pytest.mark.parametrize("num_workers, num_replicas", [(2, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("num_rows", [0, 1, 5, 12, 13])
def test_pieces_go_to_the_first_replicas_of_all_workers_and_then_to_the_second(
    num_workers: int, num_replicas: int, num_rows: int
) -> None:
    """Dealt out as TensorFlow does, and put together again, a batch is what it was."""
    whole = -(-num_rows // (num_workers * num_replicas))
    pieces = np.split(
        np.arange(num_rows), [whole * at for at in range(1, num_workers * num_replicas)]
    )
    shares = [np.concatenate(pieces[rank::num_workers]) for rank in range(num_workers)]
    together = np.concatenate(in_turns(shares, num_replicas=num_replicas))
    assert together.tolist() == list(range(num_rows))


def test_shares_of_other_data_stay_whole() -> None:
    """Rank after rank, where the sizes are not those of one batch cut in pieces."""
    shares = [np.array([0]), np.array([1, 2, 3, 4])]
    assert [each.tolist() for each in in_turns(shares, num_replicas=2)] == [[0], [1, 2, 3, 4]]
