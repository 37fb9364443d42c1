"""A worker and the server it started, over real connections and the memory that they share."""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.client import Piece
from poseidon_tf.kv.service import EXCHANGE, STREAMS_PER_SERVER
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.transport.frame_queue import FRAME_BYTES
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import decode, encode
from tests.kv.kv_links import WAIT_S, End, MakeCluster
from tests.support.memories import Sides, two_sides

pytestmark = pytest.mark.connections

ONES = np.ones(4, np.float32)
FILE_BYTES = 64 * 1024 * 1024  # Of a memory that has grown a little.
# Small and large keys, on both streams.
SIZES = [3, 20_000, 300_000, 5, 1, FRAME_BYTES // 4, FRAME_BYTES // 4 + 1, 70_000]


@pytest.fixture
def sides() -> Iterator[Sides]:
    with two_sides() as both:
        yield both


class Shared:
    """Three workers of one server, of which `own` shares memory with it."""

    def __init__(
        self,
        cluster: MakeCluster,
        sides: Sides,
        own: int,
        **options: Any,
    ) -> None:
        self.own = own
        self.memory, child = sides
        self.server = cluster(3, memory=child, memory_rank=own)
        self.links = [
            self.server.link(rank, memory=self.memory if rank == own else None, **options)
            for rank in range(3)
        ]
        self.names = [f"k{key}" for key in range(len(SIZES))]
        specs = [KeySpec(n, "float32", size) for n, size in zip(self.names, SIZES, strict=True)]
        for link in self.links:
            link.link.register(specs, timeout_s=WAIT_S)

    def push(self, rank: int, step: int, keys: Sequence[int]) -> dict[int, int]:
        """All of these keys; where they are in the shared memory, for the own rank."""
        places, pieces = {}, []
        for key in keys:
            payload = share(rank, key, step).data.cast("B")
            if rank == self.own:
                places[key] = self.memory.grow(len(payload))
            pieces.append(Piece(key, payload, places.get(key)))
        self.links[rank].link.push(pieces, step=step)
        return places

    def received(self, rank: int, steps: Sequence[int]) -> None:
        self.server.wait_received({(rank, name, step) for name in self.names for step in steps})


def share(rank: int, key: int, step: int) -> np.ndarray:
    rng = np.random.default_rng([rank, key, step])
    size = SIZES[key]
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-4, 4, size)).astype(np.float32)


def in_rank_order(key: int, step: int) -> bytes:
    total: np.ndarray = (share(0, key, step) + share(1, key, step)) + share(2, key, step)
    return total.tobytes()


def push_message(
    key: int = 0, step: int = 0, length: int = 16, place: int = 0, payload: bytes = b""
) -> bytes:
    part = Part(key=key, step=step, length=length, place=place)
    return encode(FrameHeader(parts=[part]), [payload])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("own", range(3))
def test_sums_come_through_the_memory_and_over_the_wire(
    cluster: MakeCluster, sides: Sides, own: int, order: tuple[int, int, int]
) -> None:
    """With two steps under way, the own worker finds every sum where its share was and the
    others get the same bits, whoever comes first."""
    job = Shared(cluster, sides, own)
    rng = random.Random(own)
    places: dict[tuple[int, int], int] = {}
    for rank in order:
        for step in range(2):
            keys = rng.sample(range(len(SIZES)), len(SIZES))
            placed = job.push(rank, step, keys)
            places |= {(key, step): place for key, place in placed.items()}
        job.received(rank, range(2))
    wanted = {(key, step): in_rank_order(key, step) for key in range(len(SIZES)) for step in (0, 1)}
    for rank, link in enumerate(job.links):
        sums = {(key, step): payload for key, step, payload in (link.sum_bytes() for _ in wanted)}
        assert sums.keys() == wanted.keys()
        for (key, step), payload in sums.items():
            assert (payload is None) == (rank == own)
            if payload is None:
                payload = job.memory.view(places[key, step], 4 * SIZES[key])
            assert bytes(payload) == wanted[key, step]
    assert job.links[0].inspect()[1] == 0


@pytest.mark.parametrize("own", range(3))
def test_memory_is_the_workers_again_when_it_hears_of_the_sum(
    cluster: MakeCluster, sides: Sides, own: int
) -> None:
    """What it then writes there reaches no other worker, who hears of the sum later."""
    job = Shared(cluster, sides, own)
    for step in range(6):
        places = [job.push(rank, step, range(len(SIZES))) for rank in range(3)][own]
        for _ in SIZES:
            key, at, payload = job.links[own].sum_bytes()
            assert (at, payload) == (step, None)
            job.memory.view(places[key], 4 * SIZES[key])[:] = b"\xff" * 4 * SIZES[key]
    for rank in {0, 1, 2} - {own}:
        for _ in range(6 * len(SIZES)):
            key, step, payload = job.links[rank].sum_bytes()
            assert payload is not None and bytes(payload) == in_rank_order(key, step)


def test_placed_pushes_wait_for_no_credit(cluster: MakeCluster, sides: Sides) -> None:
    """The last rank's whole gradient is with the server although nobody has credited it."""
    job = Shared(cluster, sides, 2, window_bytes=2)
    job.push(2, 0, range(len(SIZES)))
    job.received(2, [0])


@pytest.mark.parametrize("window_bytes", [2, 1000, 10_000_000])
@pytest.mark.parametrize("own", range(3))
def test_placed_and_other_pushes_finish_with_any_window(
    cluster: MakeCluster,
    sides: Sides,
    own: int,
    window_bytes: int,
) -> None:
    """Every other key of the own worker goes over the wire, in another order on each rank."""
    job = Shared(cluster, sides, own, window_bytes=window_bytes)
    rng = random.Random(window_bytes)
    for step in range(3):
        for rank in range(3):
            keys = rng.sample(range(len(SIZES)), len(SIZES))
            if rank == own:
                job.push(rank, step, [key for key in keys if key % 4 < 2])
                rest = [key for key in keys if key % 4 >= 2]
                payloads = [share(rank, key, step).data.cast("B") for key in rest]
                pieces = [Piece(key, view) for key, view in zip(rest, payloads, strict=True)]
                job.links[rank].link.push(pieces, step=step)
            else:
                job.push(rank, step, keys)
    for rank, link in enumerate(job.links):
        for _ in range(3 * len(SIZES)):
            key, step, payload = link.sum_bytes()
            assert (payload is None) == (rank == own and key % 4 < 2)
            assert payload is None or bytes(payload) == in_rank_order(key, step)


@pytest.mark.parametrize("own", range(3))
def test_what_used_no_credit_gets_none_back(cluster: MakeCluster, sides: Sides, own: int) -> None:
    """Of a placed and a plain push of a stream only the plain one is credited."""
    memory, child = sides
    server = cluster(3, memory=child, memory_rank=own)
    others = [server.link(rank) for rank in range(3) if rank != own]
    for link in others:
        link.register("k0", "k1", "k2")
        link.push(0, k0=ONES, k2=ONES)
    end = End()
    stream = server.channel().open_stream(EXCHANGE, end, metadata={"rank": str(own), "stream": "0"})
    place = memory.grow(16)
    memory.write(place, ONES.tobytes())
    stream.send(push_message(place=place + 1))
    stream.send(push_message(key=2, payload=ONES.tobytes()))
    headers: list[FrameHeader] = []
    while sum(len(header.parts) for header in headers) < 2:
        headers.append(decode(end.next())[0])
    assert sum(header.credit for header in headers) == 16
    assert memory.view(place, 16) == (3 * ONES).tobytes()
    for link in others:
        assert sorted(link.sum() for _ in range(2)) == [(0, 0, [3.0] * 4), (2, 0, [3.0] * 4)]


@pytest.mark.parametrize(
    "rank, message, text",
    [
        (0, push_message(place=1), "rank 0 shares no memory with this server"),
        (2, push_message(place=1), "rank 2 shares no memory with this server"),
        (1, push_message(place=FILE_BYTES - 14), f"to {FILE_BYTES + 1} of a shared memory of"),
        (1, push_message(place=2**64 - 1), f"of a shared memory of {FILE_BYTES}"),
        (1, push_message(place=1, length=17), "16 bytes of float32 are due"),
        (1, push_message(place=1, length=12), "16 bytes of float32 are due"),
        (1, push_message(place=1, step=1), "its next step is 0"),
        (1, push_message(place=1, key=1), "16 bytes of key number 1 on stream 0"),
        (1, push_message(place=1, key=4), "never announced"),
        (1, push_message(place=1, payload=bytes(16)), "do not add up"),
    ],
)
def test_a_refused_place_changes_nothing(
    cluster: MakeCluster,
    sides: Sides,
    rank: int,
    message: bytes,
    text: str,
) -> None:
    """Of another rank, outside, or with a push that is none: no sum, and the memory stays."""
    memory, child = sides
    memory.grow(16)
    memory.write(0, b"as it was before")
    server = cluster(3, memory=child, memory_rank=1)
    watcher = server.link((rank + 1) % 3)
    watcher.register("k0", "k1")
    end = End()
    metadata = {"rank": str(rank), "stream": "0"}
    server.channel().open_stream(EXCHANGE, end, metadata=metadata).send(message)
    error = end.get()
    assert isinstance(error, ProtocolError) and text in str(error)
    assert watcher.inspect() == ({"k0": (0, 0, 0), "k1": (0, 0, 0)}, 0)
    links = [server.link(rank), watcher, server.link((rank + 2) % 3)]
    for link in links:
        link.push(0, k0=ONES)
    assert [link.sum() for link in links] == [(0, 0, [3.0] * 4)] * 3
    assert bytes(memory.view(0, 16)) == b"as it was before"


def test_a_second_place_for_the_same_step_is_refused(cluster: MakeCluster, sides: Sides) -> None:
    """The sum goes where the first one said, on the connection that comes after."""
    memory, child = sides
    first, second = memory.grow(16), memory.grow(16)
    memory.write(first, ONES.tobytes())
    memory.write(second, b"as it was before")
    server = cluster(3, memory=child, memory_rank=1)
    links = [server.link(rank) for rank in (0, 2)]
    links[0].register("k0")
    end = End()
    stream = server.channel().open_stream(EXCHANGE, end, metadata={"rank": "1", "stream": "0"})
    stream.send(push_message(place=first + 1))
    stream.send(push_message(place=second + 1))
    assert "rank 1 pushed 'k0' for step 0 twice" in str(end.get())
    for link in links:
        link.push(0, k0=ONES)
    assert [link.sum() for link in links] == [(0, 0, [3.0] * 4)] * 2
    assert bytes(memory.view(first, 16)) == (3 * ONES).tobytes()
    assert bytes(memory.view(second, 16)) == b"as it was before"


def test_a_server_without_memory_refuses_places(cluster: MakeCluster) -> None:
    """A dedicated server says that it shares none."""
    server = cluster(2)
    server.link(0).register("k0")
    end = End()
    stream = server.channel().open_stream(EXCHANGE, end, metadata={"rank": "1", "stream": "0"})
    stream.send(push_message(place=1))
    assert "rank 1 shares no memory with this server" in str(end.get())


@pytest.mark.parametrize("credit_step", ["many", "-1"])
def test_a_credit_step_that_is_none_is_refused(cluster: MakeCluster, credit_step: str) -> None:
    """The stream ends with the reason."""
    for index in range(STREAMS_PER_SERVER):
        end = End()
        metadata = {"rank": "0", "stream": str(index), "credit_step": credit_step}
        cluster(1).channel().open_stream(EXCHANGE, end, metadata=metadata)
        error = end.get()
        assert isinstance(error, ProtocolError) and "credit_step" in str(error)
