"""What the replicas of one worker contribute becomes one contribution of the worker."""

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.session.replicas import ReplicaJoin, stacking, summing


def test_the_last_replica_completes_a_step() -> None:
    """Only then there is something to send; the first one begins the step."""
    join = ReplicaJoin(3, summing("float32"))
    ones = [np.ones(2, "float32")]
    assert join.add(1, ones) == (0, True, None)
    assert join.add(0, ones) == (0, False, None)
    step, is_first, joined = join.add(2, ones)
    assert (step, is_first) == (0, False)
    assert joined is not None and joined[0].tolist() == [3.0, 3.0]


def test_replicas_may_be_a_step_apart() -> None:
    """Each replica's step is the number of its own contributions."""
    join = ReplicaJoin(2, stacking)
    join.add(0, [np.zeros((1, 2))])
    join.add(0, [np.full((1, 2), 7.0)])
    assert join.missing() == {0: [1], 1: [1]}
    first, second = (join.add(1, [np.ones((rows, 2))]).arrays for rows in (2, 0))
    assert first is not None and first[0].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert second is not None and second[0].tolist() == [[7, 7]]
    assert join.missing() == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_arrival_changes_no_bit(order: tuple[int, int, int]) -> None:
    """Sums are made in the order of the replicas' ids."""
    shares = [np.array([share], "float32") for share in (1e8, 1.0, -1e8)]
    join = ReplicaJoin(3, summing("float32"))
    for replica in order:
        joined = join.add(replica, [shares[replica]]).arrays
    assert joined is not None
    assert joined[0][0] == (np.float32(1e8) + np.float32(1.0)) + np.float32(-1e8)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(name: str) -> None:
    """Small shares that would vanish one by one beside a large one are in the sum."""
    dtype = np.float16 if name == "float16" else ml_dtypes.bfloat16
    large, small = (2048.0, 1.0) if name == "float16" else (256.0, 1.0)
    join = ReplicaJoin(3, summing(name))
    for replica, value in enumerate((large, small, small)):
        joined = join.add(replica, [np.full((2, 1), value, dtype)]).arrays
    assert joined is not None and joined[0].shape == (2, 1)
    assert joined[0].view(dtype).astype("float32").tolist() == [[large + 2]] * 2


def test_a_contribution_may_stand_for_all_replicas() -> None:
    """Eager steps bring what all replicas have at once; the steps go on from there."""
    join = ReplicaJoin(2, stacking)
    whole = [np.ones((4, 1))]
    assert join.add(None, whole) == (0, True, whole)
    assert join.add(0, whole).step == 1
    with pytest.raises(ProtocolError, match="while replicas wait: {1: \\[1\\]}"):
        join.add(None, whole)
    assert join.add(1, whole).step == 1


def test_steps_are_counted_from_the_first_one() -> None:
    """By each replica, and by who stands for all of them."""
    join = ReplicaJoin(2, stacking, first_step=7)
    one = [np.ones((1, 1), np.float32)]
    assert join.add(1, one)[:2] == (7, True)
    assert join.missing() == {7: [0]}
    assert join.add(0, one)[:2] == (7, False)
    assert join.add(None, one)[:2] == (8, True)
