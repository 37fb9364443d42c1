"""Shares that count by their rows: what cannot be weighed is refused, in a sentence that helps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.strategy.data.shares import Shares, without_empty
from poseidon_tf.strategy.gradients.sample_weights import OpenWeights, SampleWeights

PLAIN = SimpleNamespace(gradient_accumulation_steps=None)


def weights(shares: Shares, *, num_local_replicas: int = 1) -> SampleWeights:
    worker: Any = SimpleNamespace(num_replicas=num_local_replicas)
    return SampleWeights(worker, shares, num_replicas=2 * num_local_replicas)


def rows_within(shares: Shares, *args: Any, num_local_replicas: int = 1) -> Any:
    """What a replica that is given `args` gets to know."""
    weighing = weights(shares, num_local_replicas=num_local_replicas)
    return shares.counting(lambda *_: weighing.rows(PLAIN))(*args)


def test_rows_are_those_of_the_first_tensor_that_has_any() -> None:
    """A scalar before it, such as a step, says nothing."""
    assert rows_within(Shares(), 3, tf.constant(1.0), np.zeros((5, 2))) == 5


def test_a_replica_without_a_batch_is_told_to_pass_one() -> None:
    """Nothing that `strategy.run` was given has rows."""
    with pytest.raises(ConfigError, match="pass the batch as the first tensor to strategy.run"):
        rows_within(Shares(), 3)


def test_accumulated_gradients_cannot_be_weighed() -> None:
    """They are of several batches, each with rows of its own."""
    accumulating = SimpleNamespace(gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match="leave out gradient_accumulation_steps"):
        weights(Shares()).rows(accumulating)


def test_eager_replicas_of_one_worker_cannot_be_weighed() -> None:
    """They contribute as one, with different rows."""
    with pytest.raises(ConfigError, match="leave out run_eagerly=True"):
        rows_within(Shares(), np.zeros((5, 2)), num_local_replicas=2)


def test_equal_shares_are_sent_as_they_are() -> None:
    """Where all have agreed on the rows of a share nothing is multiplied or exchanged."""
    agreed = OpenWeights(route=None, rows=4, reference=4)
    gradients, compact, scale = weights(Shares()).weigh(agreed, 4, [tf.ones([2])], {})
    assert (compact, scale) == ({}, None)
    assert gradients[0].numpy().tolist() == [1.0, 1.0]


def test_a_batch_of_other_rows_than_agreed_is_refused() -> None:
    """The sum would count its samples too much or too little."""
    agreed = OpenWeights(route=None, rows=4, reference=4)
    with pytest.raises(PlanError, match="a batch of 4 rows was agreed on.* this one has 3 rows"):
        weights(Shares()).weigh(agreed, 3, [tf.ones([2])], {})


@pytest.mark.parametrize(
    "rows, expected", [(2, [np.inf, 1.0]), (0, [0.0, 0.0]), (None, [np.inf, 1.0])]
)
def test_an_empty_share_has_zeros_for_gradients(rows: int | None, expected: list[float]) -> None:
    """Whatever a mean over no rows gave; any other share keeps what it has, infinities too."""
    gradient = tf.constant([np.inf, 1.0])
    assert without_empty(rows, gradient).numpy().tolist() == expected
    sparse = tf.IndexedSlices(gradient[:, None], tf.constant([1, 0]), tf.constant([3, 1]))
    kept = without_empty(rows, sparse)
    assert kept.values.numpy()[:, 0].tolist() == expected
    assert kept.indices.numpy().tolist() == [1, 0]
