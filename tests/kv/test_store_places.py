"""Sums that are left in a worker's own memory: the same bits, and nothing written too early."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.store import Credit, Deserted, KeySpec, Release
from tests.kv.test_store import bytes_of, in_rank_order, shares, store_of, sum_in

NUM_ELEMENTS = 257
GUARD = 64  # Bytes around a place that belong to somebody else.
NAMES = ["float32", "float64", "int32", "int64", "float16", "bfloat16"]
ARRIVALS = [
    (own, order)
    for num_workers in (1, 2, 3)
    for own in range(num_workers)
    for order in itertools.permutations(range(num_workers))
] + [(own, order) for own in range(4) for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1))]


class Place:
    """Memory of a worker, with somebody else's before and behind it."""

    def __init__(self, content: bytes) -> None:
        self.whole = bytearray(b"\xaa" * GUARD + content + b"\xaa" * GUARD)
        self.view = memoryview(self.whole)[GUARD : GUARD + len(content)]

    def holds(self, content: bytes) -> bool:
        guard = b"\xaa" * GUARD
        return bytes(self.whole) == guard + content + guard


def is_in(payload: memoryview, place: Place) -> bool:
    in_place = np.frombuffer(place.view, np.uint8)
    return np.shares_memory(np.frombuffer(payload, np.uint8), in_place)


def values_of(num_workers: int, name: str, seed: int = 0) -> list[np.ndarray]:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return [value.astype(dtype) for value in shares(num_workers, NUM_ELEMENTS, seed=seed)]


def sum_of(values: list[np.ndarray], name: str) -> bytes:
    wide = np.float32 if name in ("float16", "bfloat16") else values[0].dtype
    return in_rank_order([v.astype(wide) for v in values]).astype(values[0].dtype).tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own, order", ARRIVALS)
def test_a_sum_left_in_place_has_the_bits_of_rank_order(
    own: int, order: tuple[int, ...], name: str
) -> None:
    """The own share is in the place as it comes: whoever comes first, the sum replaces it only
    at the end, and nothing around it or of another worker changes."""
    values = values_of(len(order), name)
    store = store_of(len(order), KeySpec("a", name, NUM_ELEMENTS))
    place = Place(values[own].tobytes())
    others = {rank: memoryview(bytearray(values[rank].tobytes())) for rank in order if rank != own}
    for rank in order:
        own_place = (place.view, place.view) if rank == own else (others[rank], None)
        actions = store.push(rank, 0, 0, *own_place)
    *credits, release = actions
    assert all(isinstance(action, Credit) for action in credits)
    assert isinstance(release, Release) and is_in(release.payload, place)
    assert place.holds(sum_of(values, name))
    assert bytes(release.payload) == sum_of(values, name)
    assert all(bytes(view) == values[rank].tobytes() for rank, view in others.items())
    assert store.held_bytes() == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("own", range(3))
def test_the_place_may_be_other_memory_than_the_share(
    own: int, order: tuple[int, int, int]
) -> None:
    """The sum is left there all the same, and the share stays as it came."""
    values = values_of(3, "float32")
    store = store_of(3, KeySpec("a", "float32", NUM_ELEMENTS))
    place = Place(bytes(4 * NUM_ELEMENTS))
    payloads = [memoryview(bytearray(value.tobytes())) for value in values]
    for rank in order:
        actions = store.push(rank, 0, 0, payloads[rank], place.view if rank == own else None)
    assert is_in(sum_in(actions), place) and place.holds(sum_of(values, "float32"))
    assert [bytes(payload) for payload in payloads] == [value.tobytes() for value in values]


@pytest.mark.parametrize("num_arrived", range(4))
def test_a_share_stays_in_its_place_until_its_turn(num_arrived: int) -> None:
    """While a lower rank is missing the place holds what its worker put there."""
    values = values_of(5, "float32")
    store = store_of(5, KeySpec("a", "float32", NUM_ELEMENTS))
    place = Place(values[4].tobytes())
    store.push(4, 0, 0, place.view, place.view)
    for rank in range(num_arrived):
        store.push(rank, 0, 0, bytes_of(values[rank]))
        assert place.holds(values[4].tobytes())


def test_places_change_no_credit() -> None:
    """Actions are those of the same pushes without a place, in the same order."""
    share = np.ones(4, np.float32)
    for own, order in ARRIVALS:
        plain, in_place = (store_of(len(order), KeySpec("a", "float32", 4)) for _ in range(2))
        place = Place(share.tobytes())
        for rank in order:
            wanted = plain.push(rank, 0, 0, bytes_of(share))
            view = place.view if rank == own else None
            assert in_place.push(rank, 0, 0, view or bytes_of(share), view) == wanted
            assert in_place.held_bytes() == plain.held_bytes()


def test_sums_of_two_steps_are_left_in_their_own_places() -> None:
    """With both open at once, each step's sum is where that step's share was."""
    by_step = [values_of(3, "float32", seed) for seed in (1, 2)]
    store = store_of(3, KeySpec("a", "float32", NUM_ELEMENTS))
    places = [Place(values[1].tobytes()) for values in by_step]
    for step, place in enumerate(places):
        store.push(1, 0, step, place.view, place.view)
    for rank in (2, 0):
        for step, values in enumerate(by_step):
            actions = store.push(rank, 0, step, bytes_of(values[rank]))
            assert rank == 2 or is_in(sum_in(actions), places[step])
    for place, values in zip(places, by_step, strict=True):
        assert place.holds(sum_of(values, "float32"))


@pytest.mark.parametrize("key, step, num_bytes", [(0, 0, 1028), (0, 2, 1028), (0, 1, 4), (1, 0, 4)])
def test_a_refused_push_with_a_place_changes_nothing(key: int, step: int, num_bytes: int) -> None:
    """Twice, early, of another size or of no key: its memory stays, and the sum goes on."""
    values = values_of(2, "float32")
    store = store_of(2, KeySpec("a", "float32", NUM_ELEMENTS))
    place, refused = Place(values[1].tobytes()), Place(b"\x55" * num_bytes)
    store.push(1, 0, 0, place.view, place.view)
    before = list(store.contributions()), store.held_bytes(), store.missing()
    with pytest.raises(ProtocolError):
        store.push(1, key, step, refused.view, refused.view)
    assert (list(store.contributions()), store.held_bytes(), store.missing()) == before
    actions = store.push(0, 0, 0, bytes_of(values[0]))
    assert is_in(sum_in(actions), place) and place.holds(sum_of(values, "float32"))
    assert refused.holds(b"\x55" * num_bytes)


def test_a_share_that_comes_after_a_leaver_stays_in_its_place() -> None:
    """It is not taken, and nothing is written over it."""
    values = values_of(3, "float32")
    store = store_of(3, KeySpec("a", "float32", NUM_ELEMENTS))
    place = Place(values[1].tobytes())
    store.push(0, 0, 0, bytes_of(values[0]))
    store.leave(2, -1)
    (deserted,) = store.push(1, 0, 0, place.view, place.view)
    assert isinstance(deserted, Deserted) and place.holds(values[1].tobytes())
