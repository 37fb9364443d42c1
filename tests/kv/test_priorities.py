"""Updates across the step, with priorities: whatever happens when, everybody gets every sum.

The real service and both ends' real queues, as in `test_service_memory`; workers that go on as far
as a step can without the sums that it does not read yet.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poseidon_tf.kv.service import EXCHANGE, REGISTER, KVService
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Key, KeyTable, Part
from tests.kv.test_service_memory import NUM_STEPS, Cluster, Endpoint

pytestmark = pytest.mark.connections


class AcrossSteps(Cluster):
    """Workers whose forward pass waits for the last step's sum of each key where it reads it.

    Keys of priority 0 are reductions: summed before the forward pass, and waited for there. Some
    keys are read by no forward pass: their last sums are waited for at the end of a step. Gradients
    come in another order on every worker.

    Args:
      is_mixed: every other worker waits for all sums at the end of each step.
      unread: part of the keys that no forward pass reads.
    """

    def __init__(self, seed: int, *, num_workers: int, is_mixed: bool, unread: float) -> None:
        rng = random.Random(seed)
        self.across = [not is_mixed or bool(rank % 2) for rank in range(num_workers)]
        self.unread = unread
        super().__init__(rng, num_workers=num_workers, has_lanes=bool(seed % 2), most_priority=3)

    def begin(self) -> None:
        keys = range(len(self.sizes))
        self.gradients = [key for key in keys if self.priorities[key]]
        self.reductions = [key for key in keys if not self.priorities[key]]
        self.unread_keys = [key for key in self.gradients if self.rng.random() < self.unread]
        self.left_to_do = [deque(self.program(across)) for across in self.across]

    def program(self, across: bool) -> Iterator[tuple[str, int, int]]:
        """What a worker does, in order: push a key, or wait for its sum."""
        read = sorted(set(self.gradients) - set(self.unread_keys), key=self.priorities.__getitem__)
        for step in range(NUM_STEPS):
            if across and step:
                yield from (("wait", key, step - 1) for key in read)
            for key in self.reductions:
                yield from (("push", key, step), ("wait", key, step))
            for key in self.rng.sample(self.gradients, len(self.gradients)):
                yield "push", key, step
            if not across:
                yield from (("wait", key, step) for key in self.gradients)
            elif step:
                yield from (("wait", key, step - 1) for key in self.unread_keys)

    def heard(self, rank: int, step: int) -> None:
        """Workers go on by themselves."""

    def may_go_on(self, rank: int) -> bool:
        if not (todo := self.left_to_do[rank]):
            return False
        what, key, step = todo[0]
        return what == "push" or (key, step) in self.sums[rank]

    def go_on(self, rank: int) -> None:
        what, key, step = self.left_to_do[rank].popleft()
        if what == "push":
            self.push_key(rank, key, step)

    def events(self) -> Iterator[Callable[[], object]]:
        yield from super().events()
        for rank in range(self.num_workers):
            if self.may_go_on(rank):
                yield functools.partial(self.go_on, rank)


@pytest.mark.parametrize("where", ["frames for all", "parts", "shared memory"])
def test_sums_leave_a_server_in_the_order_of_their_priorities(where: str) -> None:
    """As they were announced, though they are finished from the top layer down."""
    size = 70_000 if where == "frames for all" else 8  # Floats; more than a frame has, or less.
    memory = SharedMemory.create() if where == "shared memory" else None
    if memory is not None:
        memory.grow(4096)
    endpoint = Endpoint()
    KVService(cast(Server, endpoint), num_workers=1, num_streams=1, memory=memory, memory_rank=0)
    priorities = [7, 3, 0, 5]
    keys = [
        Key(name=str(priority), dtype="float32", num_elements=size, priority=priority)
        for priority in priorities
    ]
    endpoint.calls[REGISTER](KeyTable(rank=0, keys=keys).SerializeToString())
    stream: Any = SimpleNamespace(metadata={"rank": "0", "stream": "0"}, outgoing=None)
    receiver = endpoint.streams[EXCHANGE](stream)
    for key in range(len(keys)):
        place = 0 if memory is None else 1 + 4 * size * key
        part = Part(key=key, length=4 * size, place=place)
        receiver.on_message(
            frames.encode(FrameHeader(parts=[part]), [bytes(4 * size)][place > 0 :])
        )
    left = []
    while stream.outgoing.is_ready():
        left += frames.decode(next(iter(stream.outgoing)))[0].parts
    assert [priorities[part.key] for part in left] == [0, 3, 5, 7]
    assert all(bool(part.place) == (memory is not None) for part in left)
    if memory is not None:
        memory.close()


def has_an_end(cluster: AcrossSteps) -> bool:
    """Let anything happen that can, until everybody has every sum; False if everyone waits."""
    most_bytes = 2 * (cluster.window_bytes + cluster.window_bytes // 8)
    while not cluster.is_finished():
        possible = list(cluster.events())
        if not possible:
            return False
        cluster.rng.choice(possible)()
        for link in cluster.links:
            assert link.up._in_flight_bytes <= most_bytes
    return True


@pytest.mark.usefixtures("small_keys_take_turns")
@pytest.mark.parametrize("unread", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("how", ["across", "mixed"])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_nobody_waits_for_ever(num_workers: int, how: str, unread: float) -> None:
    """With windows of one pair, any priorities, and workers of which some need all sums of a step
    before they go on: every interleaving ends, and everybody gets every sum, once."""
    for seed in range(10):
        cluster = AcrossSteps(seed, num_workers=num_workers, is_mixed=how == "mixed", unread=unread)
        assert has_an_end(cluster), f"seed {seed}: everyone waits; {cluster.left_to_do}"
        cluster.check_sums()


@pytest.mark.usefixtures("small_keys_take_turns")
def test_the_simulation_finds_a_deadlock() -> None:
    """Where what was overtaken waits for the credit of what overtook it, some jobs stop."""
    stuck = 0
    for seed in range(30):
        cluster = AcrossSteps(seed, num_workers=3, is_mixed=True, unread=1.0)
        for link in cluster.links:
            link.up._credited_bytes = -(10**12)  # As if nothing were ever given back.
        stuck += not has_an_end(cluster)
    assert stuck > 2
