"""What the workers make of what each knows of its dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy.data.agreement import (
    INFINITE,
    UNKNOWN,
    DataFacts,
    Ending,
    agree_on_ending,
)

FACTS = DataFacts(
    policy="DATA",
    cardinality=5,
    batch_rows=None,
    share_rows=None,
    spec=(("[0]", "float32", (-1, 4)), ("[1]", "int64", None)),
)


def agreed(*everyone: DataFacts, num_local_replicas: int = 1, by_steps: bool = False) -> Ending:
    return agree_on_ending(everyone, num_local_replicas=num_local_replicas, ends_by_steps=by_steps)


def with_all(**changes: Any) -> DataFacts:
    return replace(FACTS, **changes)


def test_facts_survive_the_way_to_the_others() -> None:
    assert DataFacts.from_json(json.loads(json.dumps(FACTS.to_json()))) == FACTS


@pytest.mark.parametrize(
    "facts, num_local_replicas, steps",
    [
        (with_all(), 1, 5),
        (with_all(policy="AUTO"), 2, 5),
        (with_all(policy="FUNCTION"), 1, 5),
        (with_all(policy="FUNCTION", cardinality=6), 2, 3),
        (with_all(policy="OFF", batch_rows=12), 1, 15),
        (with_all(policy="OFF", batch_rows=12), 2, 15),
        (with_all(policy="FILE", cardinality=INFINITE), 1, INFINITE),
    ],
)
def test_nobody_votes_where_all_have_the_same_number_of_steps(
    facts: DataFacts, num_local_replicas: int, steps: int
) -> None:
    """With OFF each of three workers reads all of its own batches, a third of one per step."""
    ending = agreed(facts, facts, facts, num_local_replicas=num_local_replicas)
    assert ending == Ending(is_voted=False, steps=steps, share_rows=None)


@pytest.mark.parametrize(
    "first, second",
    [
        (with_all(cardinality=UNKNOWN), with_all(cardinality=UNKNOWN)),
        (with_all(cardinality=UNKNOWN), with_all(cardinality=INFINITE)),
        (with_all(policy="OFF"), with_all(policy="OFF")),  # The last batch may be partial.
        (with_all(policy="OFF", batch_rows=1), with_all(policy="OFF", batch_rows=1)),
        (with_all(policy="OFF", batch_rows=8), with_all(policy="OFF", batch_rows=6)),
        (with_all(policy="FILE"), with_all(policy="FILE")),
        (with_all(policy="HINT"), with_all(policy="HINT")),
        (with_all(policy="OFF"), with_all(policy="OFF", cardinality=3)),
        (with_all(policy="FUNCTION"), with_all(policy="FUNCTION", cardinality=3)),
    ],
)
def test_where_the_ends_may_differ_the_pipelines_vote(first: DataFacts, second: DataFacts) -> None:
    """And no share is known to have as many rows at all times."""
    first, second = replace(first, share_rows=6), replace(second, share_rows=6)
    assert agreed(first, second) == Ending(is_voted=True, steps=UNKNOWN, share_rows=None)


def test_the_pipelines_vote_where_a_last_step_has_too_few_batches_for_all_replicas() -> None:
    """A function's batches are a replica's each: of five, the last is for the first of two."""
    facts = with_all(policy="FUNCTION", cardinality=5, share_rows=6)
    ending = agreed(facts, facts, num_local_replicas=2)
    assert ending == Ending(is_voted=True, steps=UNKNOWN, share_rows=None)


@pytest.mark.parametrize("mine, theirs, agreed_on", [(6, 6, 6), (6, 5, None), (6, None, None)])
def test_rows_are_agreed_on_where_every_share_has_them(
    mine: int, theirs: int | None, agreed_on: int | None
) -> None:
    ending = agreed(with_all(share_rows=mine), with_all(share_rows=theirs))
    assert not ending.is_voted and ending.share_rows == agreed_on


@pytest.mark.parametrize(
    "second, says",
    [
        (with_all(cardinality=7), ["policy DATA", "5 on rank 0, 7 on rank 1", "OFF"]),
        (with_all(cardinality=INFINITE), ["5 on rank 0, endless on rank 1"]),
        (with_all(policy="OFF"), ["policy is DATA on rank 0 and OFF on rank 1"]),
        (with_all(spec=FACTS.spec[:1]), ["int64 (?) at [1] on rank 0 and nothing on rank 1"]),
        (
            with_all(spec=(("[0]", "float32", (-1, 3)), FACTS.spec[1])),
            ["float32 (?, 4) at [0] on rank 0 and float32 (?, 3) at [0] on rank 1"],
        ),
        (
            with_all(spec=(("['x']", "float32", (-1, 4)), FACTS.spec[1])),
            ["at [0] on rank 0 and float32 (?, 4) at ['x'] on rank 1"],
        ),
    ],
)
def test_data_that_does_not_fit_together_is_refused(second: DataFacts, says: list[str]) -> None:
    """The sentence names who has what, and what to do about it."""
    with pytest.raises(ConfigError) as refusal:
        agreed(FACTS, second)
    for words in says:
        assert words in str(refusal.value)


def test_data_that_ends_on_some_workers_needs_a_number_of_steps() -> None:
    """Otherwise the others would wait at the end of an epoch that has none."""
    ends, endless = with_all(policy="OFF"), with_all(policy="OFF", cardinality=INFINITE)
    with pytest.raises(ConfigError, match="repeat.* it on all of them, or .*steps_per_epoch"):
        agreed(ends, endless)
    assert agreed(ends, endless, by_steps=True).is_voted


def test_shapes_may_be_less_known_on_one_worker() -> None:
    """A generator's shapes are read off its first batches."""
    other = with_all(spec=(("[0]", "float32", (7, -1)), ("[1]", "int64", (-1, 2))))
    assert not agreed(FACTS, other).is_voted
