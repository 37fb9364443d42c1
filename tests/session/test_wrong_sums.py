"""A server that sends sums nobody waits for: they are refused and no result is touched."""

import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.session.syncers import Pair, ServerSyncer


class Link:
    """A link that goes nowhere."""

    memory = None
    address = "s:1"

    def push(self, pieces: object, *, step: int, priority: int) -> None:
        pass


@pytest.fixture
def unit() -> SimpleNamespace:
    """A vector of six floats in two KV pairs of one server, pushed for step 0, and its results."""
    link: Any = Link()
    done: list[Any] = []
    pairs = [Pair(link, 3, 0, 16), Pair(link, 5, 16, 8)]
    syncer = ServerSyncer(
        "fc", "float32", pairs, lambda step, results: done.append((step, results[0].tolist()))
    )
    syncer.send(0, [np.zeros(6, "f")])
    by_key = {pair.key: pair for pair in pairs}
    return types.SimpleNamespace(pairs=by_key, syncer=syncer, done=done)


def floats(*values: float) -> memoryview:
    return memoryview(np.array(values, "f").tobytes())


def test_the_pairs_of_a_step_make_its_result(unit: SimpleNamespace) -> None:
    unit.syncer.receive(unit.pairs[5], 0, floats(5, 6))
    unit.syncer.receive(unit.pairs[3], 0, floats(1, 2, 3, 4))
    assert unit.done == [(0, [1, 2, 3, 4, 5, 6])]


@pytest.mark.parametrize(
    "key, step, payload, says",
    [
        (3, 0, floats(9, 9, 9, 9), "not due, or came twice"),
        (5, 1, floats(9, 9), "not due, or came twice"),
        (5, 2**64 - 1, floats(9, 9), "not due, or came twice"),
        (5, 0, floats(9), "4 bytes, 8 are due"),
        (5, 0, floats(9, 9, 9), "12 bytes, 8 are due"),
        (5, 0, floats(), "0 bytes, 8 are due"),
        (5, 0, None, "in a memory that is not shared"),
    ],
)
def test_a_sum_that_is_not_due_is_refused_and_the_result_is_right(
    unit: SimpleNamespace, key: int, step: int, payload: memoryview | None, says: str
) -> None:
    """One that came twice would have completed the step with a part that never came."""
    unit.syncer.receive(unit.pairs[3], 0, floats(1, 2, 3, 4))
    before = unit.syncer.payload_bytes()
    with pytest.raises(ProtocolError, match=f"the sum of 'fc' of step {step} from s:1: .*{says}"):
        unit.syncer.receive(unit.pairs[key], step, payload)
    assert unit.done == [] and unit.syncer.payload_bytes() == before
    unit.syncer.receive(unit.pairs[5], 0, floats(5, 6))
    assert unit.done == [(0, [1, 2, 3, 4, 5, 6])]


@pytest.mark.parametrize("payload", [None, memoryview(b"123")])
def test_a_value_of_any_size_is_still_made_of_whole_numbers(payload: memoryview | None) -> None:
    link: Any = Link()
    done: list[Any] = []
    pair = Pair(link, 0, 0, 0)
    syncer = ServerSyncer("any", "float32", [pair], lambda *each: done.append(each))
    with pytest.raises(ProtocolError, match="the sum of 'any' of step 0"):
        syncer.receive(pair, 0, payload)
    assert done == []
