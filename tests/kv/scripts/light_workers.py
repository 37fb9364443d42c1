"""Workers without TensorFlow, many in one process: `light_workers.py orders first last`.

`orders` is JSON: the coordinator's address, P1, steps, keys, window and delays. Every worker has
its own links and its own thread; it pushes whole numbers, and checks every number of every sum.
Then the process says so, and leaves when told to.
"""

import json
import queue
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.wire.frame_pb2 import InspectReply

WAIT_S = 120.0
orders = json.loads(sys.argv[1])
first, last = int(sys.argv[2]), int(sys.argv[3])
num_workers, num_steps = orders["num_workers"], orders["num_steps"]
keys = [KeySpec(name, dtype, size) for name, dtype, size in orders["keys"]]
# Sums of P1 shares below these are exact.
LIMITS = {"float32": 2**24 // num_workers, "float64": 2**52 // num_workers}


def shares(ranks: np.ndarray, key: int, step: int) -> np.ndarray:
    """One row per rank; every number is positive, and differs by rank, step and place."""
    spec = keys[key]
    place = np.arange(1, spec.num_elements + 1, dtype=np.uint64)[None, :]
    factor = (ranks.astype(np.uint64)[:, None] + 1) * np.uint64(7919 * step + 104729 * key + 1)
    mixed = (place * factor + place) * np.uint64(2654435761) >> np.uint64(7)
    drawn: np.ndarray = mixed % np.uint64(LIMITS[spec.dtype] - 1) + np.uint64(1)
    return drawn.astype(spec.dtype)


class Expected:
    """The sums of one step at a time, made once for all workers here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[int, int], np.ndarray] = {}

    def total(self, key: int, step: int) -> np.ndarray:
        with self._lock:
            if (key, step) not in self._sums:
                self._sums = {k: v for k, v in self._sums.items() if k[1] >= step - 1}
                self._sums[key, step] = shares(np.arange(num_workers), key, step).sum(axis=0)
            return self._sums[key, step]


expected = Expected()


class LightWorker:
    def __init__(self, rank: int) -> None:
        self._rank, self._rng = rank, random.Random(rank)
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        job_failure = JobFailure()
        job_failure.on_set.append(lambda: self._heard.put(job_failure.cause))
        self._client = CoordinatorClient(
            orders["coordinator"],
            role="worker",
            rank=rank,
            own_address=f"light-worker-{rank}:1",
            info={"timeline_dir": None},
            num_workers=num_workers,
            num_servers=1,
            job_failure=job_failure,
        )

    def join(self) -> None:
        view = self._client.join(timeout_s=WAIT_S)
        self._link = ServerLink(
            view.server_addresses[0],
            rank=self._rank,
            identity=view.servers[0].identity,
            on_sum=lambda key, step, payload: self._heard.put((key, step, payload)),
            on_lost=self._heard.put,
            window_bytes=orders["window_bytes"],
        )

    def train(self) -> None:
        assert self._link.register(keys, timeout_s=WAIT_S) == list(range(len(keys)))
        for step in range(num_steps):
            self._dawdle(step)
            order = self._rng.sample(range(len(keys)), len(keys))
            own = {key: shares(np.array([self._rank]), key, step)[0] for key in order}
            self._link.push(
                [Piece(key, memoryview(own[key]).cast("B")) for key in order], step=step
            )
            due = set(order)
            while due:
                heard = self._heard.get(timeout=WAIT_S)
                if isinstance(heard, Exception):
                    raise heard
                key, at, payload = heard
                assert at == step and key in due, f"rank {self._rank}: {key, at} in step {step}"
                due.remove(key)
                found = np.frombuffer(payload, keys[key].dtype)
                np.testing.assert_array_equal(found, expected.total(key, step))
        assert self._heard.empty(), "more sums than contributions"

    def _dawdle(self, step: int) -> None:
        """The random delay; rank 0, which every other rank's share waits for, may be late more."""
        late = orders["first_rank_late_s"] if self._rank == 0 else 0.0
        if self._rng.random() < orders["delay_share"]:
            late += self._rng.random() * orders["delay_s"]
        if late:
            time.sleep(late)

    def inspect(self) -> InspectReply:
        return self._link.inspect(timeout_s=WAIT_S)

    def leave(self) -> None:
        self._link.leave(num_steps - 1)
        assert self._client.goodbye(num_steps - 1, timeout_s=WAIT_S)
        self._link.close(timeout_s=10.0)
        self._client.close()


workers = [LightWorker(rank) for rank in range(first, last)]
with ThreadPoolExecutor(len(workers)) as threads:
    for phase in (LightWorker.join, LightWorker.train):
        for _ in threads.map(phase, workers):
            pass
    counts = {tuple(key.contributions) for key in workers[0].inspect().keys}
    assert counts == {(num_steps,) * num_workers}, f"contributions by rank: {counts}"
    print("sums are right", flush=True)
    sys.stdin.readline()
    for _ in threads.map(LightWorker.leave, workers):
        pass
