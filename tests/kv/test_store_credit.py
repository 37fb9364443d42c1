"""No window is too small: random interleavings of workers that obey their credit all finish."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from poseidon_tf.kv.store import Action, Credit, KeySpec, Release, Store


class Worker:
    """One worker's side as the store's peers see it: a queue, a window, and two wires."""

    def __init__(self, rank: int, orders: list[list[int]]) -> None:
        self.rank = rank
        self.orders = orders  # Per step: the keys in the order in which their gradients come.
        self.waiting: deque[tuple[int, int]] = deque((key, 0) for key in orders[0])
        self.wire_up: deque[tuple[int, int]] = deque()
        self.wire_down: deque[Action] = deque()
        self.in_flight_bytes = 0
        self.sums: dict[tuple[int, int], bytes] = {}
        self.step = 0

    def finished(self) -> bool:
        return len(self.sums) == sum(len(order) for order in self.orders)


class Job:
    """Workers, a store, and everything that can happen next.

    Args:
      window_bytes: None for the largest chunk.
      credit_step: the server keeps credit back up to here, until more of it is due; workers rely
        on no more than that, as a `FrameQueue` does.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        num_workers: int,
        window_bytes: int | None,
        credit_step: int = 0,
    ) -> None:
        self.sizes = [rng.choice([1, 3, 16, 64]) for _ in range(rng.randint(1, 6))]
        num_steps = 3
        self.num_workers = num_workers
        self.window_bytes = window_bytes or 4 * max(self.sizes)
        self.credit_step = credit_step
        self.kept = [0] * num_workers  # Credit by rank.
        self.store: Any = Store(num_workers)
        specs = [KeySpec(f"k{key}", "float32", size) for key, size in enumerate(self.sizes)]
        self.store.register(0, specs)
        keys = range(len(self.sizes))
        self.workers = [
            Worker(rank, [rng.sample(keys, len(keys)) for _ in range(num_steps)])
            for rank in range(num_workers)
        ]

    def share(self, rank: int, key: int, step: int) -> np.ndarray:
        seed = (rank * 100 + key) * 100 + step
        return np.random.default_rng(seed).standard_normal(self.sizes[key]).astype(np.float32)

    def expected(self, key: int, step: int) -> bytes:
        total = self.share(0, key, step)
        for rank in range(1, self.num_workers):
            total = total + self.share(rank, key, step)
        return total.tobytes()

    def events(self) -> Iterator[tuple[Callable[[Worker], None], Worker]]:
        """What can happen now: a worker sends, the store hears, a worker hears."""
        for worker in self.workers:
            if worker.waiting and self.fits(worker):
                yield self.send, worker
            if worker.wire_up:
                yield self.arrive, worker
            if worker.wire_down:
                yield self.hear, worker

    def fits(self, worker: Worker) -> bool:
        num_bytes = 4 * self.sizes[worker.waiting[0][0]]
        in_flight_bytes = worker.in_flight_bytes
        if in_flight_bytes <= self.credit_step:
            return True
        return in_flight_bytes + num_bytes <= self.window_bytes

    def send(self, worker: Worker) -> None:
        key, step = worker.waiting.popleft()
        worker.in_flight_bytes += 4 * self.sizes[key]
        worker.wire_up.append((key, step))

    def arrive(self, worker: Worker) -> None:
        key, step = worker.wire_up.popleft()
        payload = memoryview(self.share(worker.rank, key, step).tobytes())
        for action in self.store.push(worker.rank, key, step, payload):
            if isinstance(action, Credit):
                self.give_credit(action)
                continue
            for hearer in self.workers:
                hearer.wire_down.append(action)

    def give_credit(self, credit: Credit) -> None:
        """Credit that rides along with a sum comes earlier than here, which stops nobody."""
        rank = credit.rank
        self.kept[rank] += credit.num_bytes
        if self.kept[rank] > self.credit_step:
            self.workers[rank].wire_down.append(Credit(rank, self.kept[rank]))
            self.kept[rank] = 0

    def hear(self, worker: Worker) -> None:
        action = worker.wire_down.popleft()
        if isinstance(action, Credit):
            worker.in_flight_bytes -= action.num_bytes
            assert worker.in_flight_bytes >= 0
            return
        assert isinstance(action, Release)
        assert (action.key, action.step) not in worker.sums
        worker.sums[action.key, action.step] = bytes(action.payload)
        # The next step begins when this one's sums are all there.
        if len(worker.sums) == (worker.step + 1) * len(self.sizes) and not worker.finished():
            worker.step += 1
            worker.waiting.extend((key, worker.step) for key in worker.orders[worker.step])


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("window_bytes", [1, None])  # One chunk at a time; the largest chunk.
@pytest.mark.parametrize("credit_step", [0, 4, 63, 300, 10_000])  # The last: beyond all there is.
def test_every_interleaving_finishes_within_bounded_memory(
    num_workers: int, window_bytes: int | None, credit_step: int
) -> None:
    """Whatever the order of keys per rank and of events, and however much credit is kept back,
    nobody waits for ever, the sums have the same bits, and the server never holds more than its
    shard and what the workers may send."""
    for seed in range(25):
        rng = random.Random(seed)
        job = Job(rng, num_workers=num_workers, window_bytes=window_bytes, credit_step=credit_step)
        shard_bytes = 4 * sum(job.sizes)
        window = max(job.window_bytes, credit_step + 4 * max(job.sizes))
        while not all(worker.finished() for worker in job.workers):
            possible = list(job.events())
            assert possible, f"seed {seed}: everyone waits; owed {job.store.missing()}"
            event, worker = rng.choice(possible)
            event(worker)
            assert job.store.held_bytes() <= shard_bytes + num_workers * window
        for worker in job.workers:
            for (key, step), total in worker.sums.items():
                assert total == job.expected(key, step)
        assert job.store.held_bytes() == 0


class CreditOnRelease:
    """A store that returns credit only when a sum is finished: a window can then fill up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.withheld: list[tuple[int, Credit]] = []
        self.missing = store.missing

    def push(self, rank: int, key: int, step: int, payload: memoryview) -> list[Credit | Release]:
        actions = self.store.push(rank, key, step, payload)
        kept = [action for action in actions if isinstance(action, Credit)]
        self.withheld += [(key, action) for action in kept]
        released = {action.key for action in actions if isinstance(action, Release)}
        freed = [action for key, action in self.withheld if key in released]
        self.withheld = [(key, action) for key, action in self.withheld if key not in released]
        return [*freed, *(action for action in actions if isinstance(action, Release))]


def test_the_simulation_finds_a_deadlock() -> None:
    """With credit only for finished sums, some interleaving stops: the test above can fail."""
    stuck = 0
    for seed in range(25):
        rng = random.Random(seed)
        job = Job(rng, num_workers=3, window_bytes=1)
        job.store = CreditOnRelease(job.store)
        while possible := list(job.events()):
            event, worker = rng.choice(possible)
            event(worker)
        stuck += not all(worker.finished() for worker in job.workers)
    assert stuck > 5


def test_the_simulation_finds_credit_that_is_missed() -> None:
    """Workers that wait for all their credit, while some may be kept back, stop in time."""

    class Strict(Job):
        def fits(self, worker: Worker) -> bool:
            num_bytes = 4 * self.sizes[worker.waiting[0][0]]
            in_flight_bytes = worker.in_flight_bytes
            return in_flight_bytes == 0 or in_flight_bytes + num_bytes <= self.window_bytes

    stuck = 0
    for seed in range(25):
        rng = random.Random(seed)
        job = Strict(rng, num_workers=3, window_bytes=1, credit_step=63)
        while possible := list(job.events()):
            event, worker = rng.choice(possible)
            event(worker)
        stuck += not all(worker.finished() for worker in job.workers)
    assert stuck > 5


@pytest.mark.parametrize("last", range(4))
def test_a_slow_worker_holds_back_no_lower_rank(last: int) -> None:
    """With one rank silent, all keys of lower ranks are added and credited; no window is full."""
    store = Store(4)
    store.register(0, [KeySpec(f"k{key}", "float32", 1) for key in range(5)])
    credited: set[tuple[int, int]] = set()
    for rank in range(4):
        for key in range(5):
            if rank != last:
                actions = store.push(rank, key, 0, memoryview(bytes(4)))
                credited |= {(a.rank, key) for a in actions if isinstance(a, Credit)}
    assert credited == {(rank, key) for rank in range(last) for key in range(5)}
