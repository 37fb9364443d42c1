"""What the store refuses, and what becomes of sums that can never be finished."""

from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.store import (
    MAX_KEY_BYTES,
    MAX_NAME_CHARS,
    MAX_OPEN_STEPS,
    Credit,
    Deserted,
    KeySpec,
    Release,
    Store,
)

ADDRESSES = [f"10.0.0.{rank}:1" for rank in range(3)]
NAMES = [f"worker rank {rank} ({address})" for rank, address in enumerate(ADDRESSES)]
SHARE = memoryview(np.ones(4, np.float32).tobytes())


def fed_store() -> Store:
    """Three workers; step 0 of "a" is done, in step 1 only rank 0 and 2 have pushed it."""
    store = Store(3, ADDRESSES)
    store.register(
        0, [KeySpec("a", "float32", 4), KeySpec("any", "float32", 0), KeySpec("b", "float32", 4)]
    )
    for rank in range(3):
        store.push(rank, 0, 0, SHARE)
    store.push(2, 0, 1, SHARE)
    store.push(0, 0, 1, SHARE)
    store.push(1, 1, 0, memoryview(bytes(8)))
    return store


def state(store: Store) -> tuple[Any, ...]:
    return list(store.contributions()), store.held_bytes(), store.missing()


@pytest.mark.parametrize(
    "rank, key, step, num_bytes, text",
    [
        (0, 0, 1, 16, "rank 0 pushed 'a' for step 1 twice"),
        (2, 0, 1, 16, "rank 2 pushed 'a' for step 1 twice"),
        (1, 0, 0, 16, "rank 1 pushed 'a' for step 0 twice"),
        (1, 0, 2, 16, "rank 1 pushed 'a' for step 2; its next step is 1"),
        (0, 2, 1, 16, "its next step is 0"),
        (1, 0, 2**64 - 1, 16, "its next step is 1"),
        (1, 0, 1, 12, "12 bytes of 'a' for step 1; 16 bytes of float32 are due"),
        (1, 0, 1, 20, "16 bytes of float32 are due"),
        (1, 0, 1, 0, "16 bytes of float32 are due"),
        (0, 1, 0, 4, "4 bytes of 'any' for step 0; 8 bytes"),
        (0, 1, 0, 0, "8 bytes of float32 are due"),
        (1, 1, 1, 7, "7 bytes of 'any'"),
        (1, 1, 1, MAX_KEY_BYTES + 4, "bytes of 'any'"),
        (0, 3, 0, 16, "key number 3, which was never announced"),
        (3, 0, 1, 16, "rank 3; there are 3 workers"),
        (-1, 0, 1, 16, "rank -1; there are 3 workers"),
    ],
)
def test_a_refused_push_changes_nothing(
    rank: int, key: int, step: int, num_bytes: int, text: str
) -> None:
    """Twice, early, of another size, of nobody or of nothing: refused, and the sum goes on."""
    store = fed_store()
    before = state(store)
    with pytest.raises(ProtocolError, match=text):
        store.push(rank, key, step, memoryview(bytes(num_bytes)))
    assert state(store) == before
    actions = store.push(1, 0, 1, SHARE)
    total = memoryview(np.full(4, 3, np.float32).tobytes())
    assert actions == [Credit(1, 16), Credit(2, 16), Release(0, 1, total)]


def test_contributions_and_missing_name_ranks() -> None:
    """Both are what reports are made of: pushes by rank, and who owes which sum."""
    store = fed_store()
    assert store.contributions() == [("a", (2, 1, 2)), ("any", (0, 1, 0)), ("b", (0, 0, 0))]
    assert store.missing() == [("a", 1, [1]), ("any", 0, [0, 2])]


def test_a_leaver_deserts_the_sums_that_miss_its_share() -> None:
    """Each open sum without its share is named, with who left, after which step, and who waits."""
    store = fed_store()
    assert store.leave(1, 0) == [
        Deserted(1, f"{NAMES[1]} left after step 0 while {NAMES[2]} waits for 'a' of step 1")
    ]
    assert store.leave(0, 7) == [
        Deserted(0, f"{NAMES[0]} left after step 7 while {NAMES[1]} waits for 'any' of step 0")
    ]


def test_workers_are_named_with_addresses_that_are_known_later() -> None:
    """As where they choose their own; one that is not known is left out."""
    store = fed_store()
    store.learn(["a:1", "b:1", ""])
    assert store.leave(1, 0) == [
        Deserted(
            1,
            "worker rank 1 (b:1) left after step 0 while worker rank 2 waits for 'a' of step 1",
        )
    ]


def test_a_leaver_whose_shares_are_all_there_deserts_nobody() -> None:
    """What it has pushed still counts, and the sums are finished by the others."""
    store = fed_store()
    assert store.leave(2, 1) == [
        Deserted(2, f"{NAMES[2]} left after step 1 while {NAMES[1]} waits for 'any' of step 0")
    ]
    actions = store.push(1, 0, 1, SHARE)
    assert isinstance(actions[-1], Release)


def test_a_push_after_a_leaver_is_deserted_and_not_taken() -> None:
    """Who pushes what the leaver has not contributed hears so at once."""
    store = fed_store()
    store.leave(1, 0)
    before = state(store)
    (deserted,) = store.push(0, 2, 0, SHARE)
    left = f"{NAMES[1]} left after step 0"
    assert deserted == Deserted(1, f"{left} while {NAMES[0]} waits for 'b' of step 0")
    assert state(store) == before


def test_workers_that_have_finished_leave_in_any_order() -> None:
    """With nothing open, nobody's leaving is anybody's loss."""
    store = Store(2)
    store.register(0, [KeySpec("a", "float32", 4)])
    for rank in range(2):
        store.push(rank, 0, 0, SHARE)
    assert store.leave(1, 0) == [] and store.leave(0, 0) == []


def test_a_key_too_many_is_refused_and_none_of_the_table_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys that are known count once, however often they are announced."""
    monkeypatch.setattr("poseidon_tf.kv.store.MAX_KEYS", 4)
    store = Store(2)
    four = [KeySpec(name, "float32", 4) for name in "abcd"]
    store.register(0, four)
    store.register(1, four)
    before = state(store)
    with pytest.raises(ProtocolError, match="1 keys more than the 4 that are known; at most 4"):
        store.register(0, [KeySpec("a", "float32", 4), KeySpec("e", "float32", 4)])
    assert state(store) == before


def test_a_name_too_long_is_refused() -> None:
    store = Store(1)
    store.register(0, [KeySpec("n" * MAX_NAME_CHARS, "float32", 4)])
    before = state(store)
    with pytest.raises(ProtocolError, match=f"{MAX_NAME_CHARS + 1} characters"):
        store.register(0, [KeySpec("n" * (MAX_NAME_CHARS + 1), "float32", 4)])
    assert state(store) == before


def test_nobody_piles_up_steps_that_others_have_not_begun() -> None:
    """Not even rank 0, whose shares are added, and give credit back, at once."""
    store = Store(2)
    store.register(0, [KeySpec("a", "float32", 4)])
    for step in range(MAX_OPEN_STEPS):
        store.push(0, 0, step, SHARE)
    before = state(store)
    with pytest.raises(ProtocolError, match=f"{MAX_OPEN_STEPS} steps before it wait for other"):
        store.push(0, 0, MAX_OPEN_STEPS, SHARE)
    assert state(store) == before
    store.push(1, 0, 0, SHARE)
    store.push(0, 0, MAX_OPEN_STEPS, SHARE)
