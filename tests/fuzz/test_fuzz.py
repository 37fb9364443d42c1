"""Any bytes, any order of events: an error of ours or a valid result, never anything else."""

import random
import tracemalloc
from collections.abc import Sequence

import fuzz_lane
import pytest
from fuzz_seeds import SEEDS
from fuzz_targets import CONNECTIONS, DECODERS, SERVICES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.exhaustive

# The same inputs in every run, and few: `make fuzz` looks for new ones.
FEW = settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# Python's memory that a decoder may take for one byte of input, and for none.
PER_BYTE, AT_LEAST = 100, 64 * 1024
# The same for a whole target with all its events, each of which can take a key or a piece.
EVENTS_AT_MOST = 512 * 1024


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A valid message with a piece of it replaced, doubled or cut out."""
    message = draw(st.sampled_from(seeds))
    begin = draw(st.integers(0, len(message)))
    end = draw(st.integers(begin, min(len(message), begin + 40)))
    middle = draw(st.one_of(st.binary(max_size=40), st.just(message[begin:end] * 2)))
    return message[:begin] + middle + message[end:]


def noise(seed: int) -> bytes:
    """Bytes of which each is as likely as the next: of these most events are of different kinds."""
    return random.Random(seed).randbytes(600)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_refuses_or_returns_something_whole(name: str) -> None:
    """Random bytes, and valid messages with something wrong in them."""

    @FEW
    @given(st.one_of(st.binary(max_size=300), changed(SEEDS.get(name, [noise(0)]))))
    def check(data: bytes) -> None:
        DECODERS[name](data)

    for seed in SEEDS.get(name, []):
        DECODERS[name](seed)
    check()


@pytest.mark.parametrize("name", SEEDS)
def test_a_decoder_takes_memory_in_proportion_to_its_input(name: str) -> None:
    """Whatever sizes a message names, what counts is the bytes that came."""

    @settings(FEW, max_examples=60)
    @given(st.one_of(st.binary(max_size=300), changed(SEEDS[name])))
    def check(data: bytes) -> None:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        DECODERS[name](data)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before <= PER_BYTE * len(data) + AT_LEAST

    DECODERS[name](SEEDS[name][0])  # What is made once, such as compiled patterns.
    tracemalloc.start()
    try:
        check()
    finally:
        tracemalloc.stop()


@pytest.mark.connections
def test_of_a_lane_whole_messages_are_heard_and_no_others() -> None:
    """Random bytes, and messages with something wrong in them; however it is cut short."""

    @FEW
    @given(st.one_of(st.binary(max_size=300), changed(fuzz_lane.SEEDS["lane"])))
    def check(data: bytes) -> None:
        CONNECTIONS["lane"](data)

    for seed in fuzz_lane.SEEDS["lane"]:
        CONNECTIONS["lane"](seed)
    check()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_stays_as_it_was_after_a_refusal(name: str) -> None:
    """Random orders of good and bad events; the state is compared around each of them."""

    @settings(FEW, max_examples=300)
    @given(st.one_of(st.binary(max_size=600), st.integers(0).map(noise)))
    def check(data: bytes) -> None:
        SERVICES[name](data)

    check()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_memory_in_proportion_to_what_came(name: str) -> None:
    """Sizes, counts and places that are named, up to 2**64, cost nothing."""

    @settings(FEW, max_examples=60)
    @given(st.integers(0).map(noise))
    def check(data: bytes) -> None:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        SERVICES[name](data)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before <= EVENTS_AT_MOST

    SERVICES[name](noise(0))
    tracemalloc.start()
    try:
        check()
    finally:
        tracemalloc.stop()
