"""The store's sums, by feeding it pushes and reading what follows."""

import itertools
import warnings
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.store import (
    MAX_KEY_BYTES,
    MAX_PRIORITY,
    Action,
    Credit,
    KeySpec,
    Release,
    Store,
)


def bytes_of(values: np.ndarray) -> memoryview:
    return memoryview(values.tobytes())


def sum_in(actions: Sequence[Action]) -> memoryview:
    """What the last of them releases."""
    release = actions[-1]
    assert isinstance(release, Release)
    return release.payload


def shares(
    num_workers: int, num_elements: int, dtype: str = "float32", seed: int = 0
) -> list[np.ndarray]:
    """Values of very different sizes, so that float32 sums depend on their order."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal(num_elements) * 10.0 ** rng.integers(-4, 4, num_elements)).astype(
            dtype
        )
        for _ in range(num_workers)
    ]


def in_rank_order(values: list[np.ndarray]) -> np.ndarray:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def store_of(num_workers: int, *specs: KeySpec) -> Store:
    store = Store(num_workers)
    for rank in range(num_workers):
        assert store.register(rank, specs) == list(range(len(specs)))
    return store


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_the_sum_has_the_same_bits_for_every_order_of_arrival(num_workers: int) -> None:
    """Whoever comes first, the shares are added in rank order, once, and released at the end."""
    values = shares(num_workers, 257)
    expected = in_rank_order(values).tobytes()
    orders = list(itertools.permutations(range(num_workers)))
    store = store_of(num_workers, KeySpec("fc7#0", "float32", 257))
    for step, order in enumerate(orders):
        for rank in order:
            actions = store.push(rank, 0, step, bytes_of(values[rank]))
            is_last = rank == order[-1]
            assert [type(a) for a in actions if not isinstance(a, Credit)] == [Release] * is_last
        assert actions[-1] == Release(0, step, memoryview(expected))
    assert store.held_bytes() == 0
    if num_workers > 2:
        other_order = in_rank_order(values[::-1]).tobytes()
        assert other_order != expected  # Or the test would show nothing.


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_credit_comes_back_as_shares_are_added(order: tuple[int, int, int]) -> None:
    """A rank gets its bytes back as soon as all lower ranks' shares are there, not earlier."""
    store = store_of(3, KeySpec("a", "float32", 4))
    arrived, credited = set(), []
    for rank in order:
        actions = store.push(rank, 0, 0, bytes_of(np.ones(4, np.float32)))
        arrived.add(rank)
        due = list(itertools.takewhile(arrived.__contains__, range(3)))
        credited += [action for action in actions if isinstance(action, Credit)]
        assert credited == [Credit(rank, 16) for rank in due]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 2, 0)])
def test_half_precision_is_summed_in_float32_and_rounded_once(
    name: str, order: tuple[int, int, int, int]
) -> None:
    """The released bits are those of the float32 sum, rounded to nearest even."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    values = [value.astype(dtype) for value in shares(4, 301)]
    store = store_of(4, KeySpec("a", name, 301))
    for rank in order:
        actions = store.push(rank, 0, 0, bytes_of(values[rank]))
    total = in_rank_order([value.astype(np.float32) for value in values])
    assert bytes(sum_in(actions)) == total.astype(dtype).tobytes()
    assert total.astype(dtype).tobytes() != in_rank_order(values).tobytes()


@pytest.mark.parametrize("name", ["float64", "int32", "int64"])
def test_other_types_are_summed_as_they_are(name: str) -> None:
    """The sum has its contributions' type."""
    values = shares(3, 50, name)
    store = store_of(3, KeySpec("a", name, 50))
    for rank in (2, 0, 1):
        actions = store.push(rank, 0, 0, bytes_of(values[rank]))
    assert bytes(sum_in(actions)) == in_rank_order(values).tobytes()


@pytest.mark.parametrize("sizes", [[5, 1, 0, 1000], [0, 0, 3]])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_key_of_no_fixed_size_may_change_it_every_step(sizes: list[int], name: str) -> None:
    """Each step's size is its first contribution's, nothing at all included."""
    store = store_of(2, KeySpec("a", name, 0))
    itemsize = 2 if name == "bfloat16" else 4
    for step, size in enumerate(sizes):
        payload = memoryview(bytes(size * itemsize))
        assert store.push(1, 0, step, payload) == []
        with pytest.raises(ProtocolError, match=f"{size * itemsize} bytes of {name} are due"):
            store.push(0, 0, step, memoryview(bytes((size + 1) * itemsize)))
        assert store.push(0, 0, step, payload)[-1] == Release(0, step, payload)


def test_a_worker_may_be_steps_ahead() -> None:
    """Sums of several steps are open at once and end in the order in which they fill."""
    store = store_of(2, KeySpec("a", "int64", 1))
    for step in range(3):
        assert store.push(1, 0, step, bytes_of(np.array([10 + step]))) == []
    assert store.missing() == [("a", step, [0]) for step in range(3)]
    for step in range(3):
        actions = store.push(0, 0, step, bytes_of(np.array([100])))
        assert actions == [
            Credit(0, 8),
            Credit(1, 8),
            Release(0, step, bytes_of(np.array([110 + step]))),
        ]


def test_a_contribution_is_never_written_to() -> None:
    """The first shares' memory stays as it came, as others may hold it too."""
    store = store_of(3, KeySpec("a", "float32", 3))
    payloads = [bytes_of(np.full(3, rank + 1, np.float32)) for rank in range(3)]
    before = [bytes(payload) for payload in payloads]
    writable = [memoryview(bytearray(payload)) for payload in payloads]
    for rank in range(3):
        store.push(rank, 0, 0, writable[rank])
    assert [bytes(view) for view in writable] == before


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_infinities_are_summed_without_a_warning(name: str) -> None:
    """Overflow and its NaN are the workers' to judge: loss scaling counts on them."""
    store = store_of(3, KeySpec("a", name, 2))
    largest = np.finfo(name).max
    values = [[largest, np.inf], [largest, -np.inf], [largest, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rank in range(3):
            actions = store.push(rank, 0, 0, bytes_of(np.array(values[rank], name)))
    total = np.frombuffer(sum_in(actions), name)
    assert np.isposinf(total[0]) and np.isnan(total[1])


def test_held_bytes_are_those_of_shares_and_open_sums() -> None:
    """A waiting share counts whole, an open sum once, a released one no more."""
    store = store_of(3, KeySpec("a", "float32", 10), KeySpec("b", "float16", 10))
    share = memoryview(bytes(40))
    store.push(2, 0, 0, share)
    assert store.held_bytes() == 40
    store.push(0, 0, 0, share)
    assert store.held_bytes() == 80
    store.push(0, 1, 0, memoryview(bytes(20)))
    assert store.held_bytes() == 120  # A half's sum is held in float32.
    store.push(1, 0, 0, share)
    assert store.held_bytes() == 40


def test_a_name_has_one_number_for_all_workers() -> None:
    """Whoever announces it, alone or among others, gets the number it first got."""
    store = Store(2)
    a, b, c = (KeySpec(name, "float32", 1) for name in "abc")
    assert store.register(0, [a, b]) == [0, 1]
    assert store.register(1, [c, b, a]) == [2, 1, 0]
    assert store.register(0, [c, c]) == [2, 2]


@pytest.mark.parametrize(
    "rank, specs, text",
    [
        (0, [KeySpec("new", "float32", 1), KeySpec("a", "float32", 5)], "'a': rank 0 announces 5"),
        (1, [KeySpec("a", "float16", 4)], "4 x float16, before it was announced as 4 x float32"),
        (0, [KeySpec("new", "float32", 1), KeySpec("new", "float32", 2)], "'new'"),
        (
            0,
            [KeySpec("a", "float32", 4, 3)],
            "4 x float32 with priority 3, before it was announced",
        ),
        (
            0,
            [KeySpec("new", "float32", 1, MAX_PRIORITY + 1)],
            f"from 0 to {MAX_PRIORITY} are allow",
        ),
        (0, [KeySpec("new", "float32", 1, -1)], "announces priority -1"),
        (0, [KeySpec("new", "float32", 1), KeySpec("b", "complex64", 1)], "cannot be summed"),
        (0, [KeySpec("b", "float32", MAX_KEY_BYTES // 4 + 1)], "cut it into KV pairs"),
        (2, [KeySpec("new", "float32", 1)], "rank 2; there are 2 workers"),
    ],
)
def test_a_refused_announcement_adds_no_key(rank: int, specs: list[KeySpec], text: str) -> None:
    """Another size or type than before, no sum, too large, or a stranger: nothing is added."""
    store = store_of(2, KeySpec("a", "float32", 4))
    with pytest.raises(ProtocolError, match=text):
        store.register(rank, specs)
    assert store.contributions() == [("a", (0, 0))]
    assert store.register(1, [KeySpec("next", "float32", 1)]) == [1]


def test_a_key_begins_at_its_first_step() -> None:
    """So keys of a plan that is made anew go on where the training is."""
    store = store_of(2, KeySpec("w", "float32", 1, first_step=7))
    one = bytes_of(np.ones(1, np.float32))
    for step in (0, 6, 8):
        with pytest.raises(ProtocolError, match=f"for step {step}"):
            store.push(0, 0, step, one)
    for step in (7, 8):
        store.push(0, 0, step, one)
        assert np.frombuffer(sum_in(store.push(1, 0, step, one)), np.float32) == [2.0]
    assert list(store.contributions()) == [("w", (9, 9))]
