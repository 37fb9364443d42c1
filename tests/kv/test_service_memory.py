"""What a server holds, at every moment of random interleavings of its streams.

The real service and both ends' real queues, without a connection: frames are taken from a queue
and handed over one at a time, in an order that a seed gives.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from poseidon_tf.kv.service import EXCHANGE, INSPECT, REGISTER, KVService, stream_of
from poseidon_tf.kv.store import KeySpec, Store
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import InspectReply, InspectRequest, Key, KeyTable, Part
from tests.kv.test_store import sum_in
from tests.support.carried import carried

pytestmark = pytest.mark.connections

NUM_STEPS = 3
NUM_STREAMS = 2


class Endpoint:
    """Takes the place of a transport server: keeps what is served, to be called directly."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[..., Any]] = {}
        self.streams: dict[str, Callable[..., Any]] = {}

    def add_unary(self, method: str, answer: Callable[..., Any]) -> None:
        self.calls[method] = answer

    def add_stream(
        self, method: str, accept: Callable[..., Any], *, with_lanes: bool = False
    ) -> None:
        self.streams[method] = accept


class Link:
    """One stream of one worker: both queues, and the frames that are under way."""

    def __init__(self, job: Cluster, rank: int, index: int) -> None:
        self.rank, self.index = rank, index
        step = job.window_bytes // 8
        self.up = FrameQueue(window_bytes=job.window_bytes, credit_step=step)
        metadata = {"rank": str(rank), "stream": str(index), "credit_step": str(step)}
        stream = SimpleNamespace(metadata=metadata, outgoing=None, close=lambda: None)
        self.server = job.endpoint.streams[EXCHANGE](stream)
        self.down = stream.outgoing
        self.up_frames, self.down_frames = iter(self.up), iter(self.down)
        self.rising: deque[frames.Message] = deque()
        self.falling: deque[frames.Message] = deque()
        self.carried = functools.partial(carried, by_lane=job.has_lanes)

    def possible(self) -> Iterator[Callable[[], object]]:
        """What can happen next on this stream."""
        if self.up.is_ready():
            yield lambda: self.rising.append(self.carried(next(self.up_frames)))
        if self.rising:
            yield lambda: self.server.on_message(self.rising.popleft())
        if self.down.is_ready():
            yield lambda: self.falling.append(self.carried(next(self.down_frames)))


class Cluster:
    """One service, and workers that push their next step when the last one's sums are there.

    Args:
      most_priority: priorities of the keys are drawn up to here.
    """

    def __init__(
        self, rng: random.Random, *, num_workers: int, has_lanes: bool, most_priority: int = 0
    ) -> None:
        self.has_lanes = has_lanes
        self.sizes = [rng.choice([1, 3, 16, 500, 70_000]) for _ in range(rng.randint(2, 6))]
        self.window_bytes = 4 * max(self.sizes)  # Of one stream: its largest pair.
        self.num_workers, self.rng = num_workers, rng
        self.endpoint = Endpoint()
        # (key, step) -> streams that have not taken it.
        self.released: dict[tuple[int, int], int] = {}
        KVService(
            cast(Server, self.endpoint),
            num_workers=num_workers,
            num_streams=NUM_STREAMS,
            on_released=lambda name, step: self.released.update({(int(name), step): num_workers}),
        )
        self.priorities = [rng.randint(0, most_priority) for _ in self.sizes]
        keys = [
            Key(name=str(at), dtype="float32", num_elements=size, priority=priority)
            for at, (size, priority) in enumerate(zip(self.sizes, self.priorities, strict=True))
        ]
        self.endpoint.calls[REGISTER](KeyTable(rank=0, keys=keys).SerializeToString())
        self.links = [
            Link(self, rank, index) for rank in range(num_workers) for index in range(NUM_STREAMS)
        ]
        self.sums: list[dict[tuple[int, int], bytes]] = [{} for _ in range(num_workers)]
        self.begin()

    def begin(self) -> None:
        for rank in range(self.num_workers):
            self.push(rank, 0)

    def share(self, rank: int, key: int, step: int) -> np.ndarray:
        seed = (rank * 100 + key) * 100 + step
        return np.random.default_rng(seed).integers(1, 10**4, self.sizes[key]).astype(np.float32)

    def push(self, rank: int, step: int) -> None:
        for key in self.rng.sample(range(len(self.sizes)), len(self.sizes)):
            self.push_key(rank, key, step)

    def push_key(self, rank: int, key: int, step: int) -> None:
        payload = self.share(rank, key, step).data.cast("B")
        link = self.links[rank * NUM_STREAMS + stream_of(key, len(payload), NUM_STREAMS)]
        part = Part(key=key, step=step, length=len(payload))
        link.up.put_parts([(part, payload)], priority=self.priorities[key])

    def hear(self, link: Link) -> None:
        header, payloads = frames.decode(link.falling.popleft())
        assert not header.refusal
        link.up.take_credit(header.credit)
        sums = self.sums[link.rank]
        for part, payload in zip(header.parts, payloads, strict=True):
            self.released[part.key, part.step] -= 1
            assert (part.key, part.step) not in sums
            sums[part.key, part.step] = bytes(payload)
            self.heard(link.rank, part.step)

    def heard(self, rank: int, step: int) -> None:
        if len(self.sums[rank]) % len(self.sizes) == 0 and step + 1 < NUM_STEPS:
            self.push(rank, step + 1)

    def events(self) -> Iterator[Callable[[], object]]:
        for link in self.links:
            yield from link.possible()
            if link.falling:
                yield functools.partial(self.hear, link)

    def is_finished(self) -> bool:
        return all(len(sums) == NUM_STEPS * len(self.sizes) for sums in self.sums)

    def check_sums(self) -> None:
        for key in range(len(self.sizes)):
            for step in range(NUM_STEPS):
                shares = [self.share(rank, key, step) for rank in range(self.num_workers)]
                expected = np.sum(shares, axis=0, dtype=np.float32).tobytes()
                assert all(sums[key, step] == expected for sums in self.sums)

    def held_bytes(self) -> int:
        """Contributions and unfinished sums, and sums that some worker has not taken yet."""
        reply = InspectReply.FromString(
            self.endpoint.calls[INSPECT](InspectRequest().SerializeToString())
        )
        waiting = sum(4 * self.sizes[key] for (key, _), left in self.released.items() if left)
        return int(reply.held_bytes) + waiting


@pytest.mark.usefixtures("small_keys_take_turns")
@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("most_priority", [0, 4])
@pytest.mark.parametrize("seed", range(15))
def test_a_server_holds_two_shards_and_the_windows_at_most(
    num_workers: int, most_priority: int, seed: int
) -> None:
    """At every moment, with windows of one pair; and every worker gets every sum, once."""
    has_lanes = bool(seed % 2)
    cluster = Cluster(
        random.Random(seed),
        num_workers=num_workers,
        has_lanes=has_lanes,
        most_priority=most_priority,
    )
    shard_bytes = 4 * sum(cluster.sizes)
    window_bytes = NUM_STREAMS * (cluster.window_bytes + cluster.window_bytes // 8)
    while not cluster.is_finished():
        possible = list(cluster.events())
        assert possible, "everyone waits"
        cluster.rng.choice(possible)()
        assert cluster.held_bytes() <= 2 * shard_bytes + num_workers * window_bytes
    cluster.check_sums()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_share_that_waits_does_not_keep_its_whole_frame(rank: int) -> None:
    """A few bytes that wait for another rank hold a copy of themselves, not 256 KiB."""
    store = Store(3)
    store.register(0, [KeySpec("small", "float32", 2)])
    message = np.arange(64 * 1024, dtype=np.float32).tobytes()
    holders = sys.getrefcount(message)
    store.push(rank, 0, 0, memoryview(message)[8:16])
    assert sys.getrefcount(message) == holders
    assert store.held_bytes() == 8
    actions = []
    for other in {0, 1, 2} - {rank}:
        actions = store.push(other, 0, 0, np.ones(2, np.float32).data.cast("B"))
    assert np.frombuffer(sum_in(actions), np.float32).tolist() == [4.0, 5.0]
