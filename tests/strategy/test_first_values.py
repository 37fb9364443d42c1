"""First values travel as one line of bytes, whatever the number and the sizes of the variables."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from poseidon_tf.coordinator.limits import MAX_PIECE_BYTES
from poseidon_tf.session.gathers import Gathers
from poseidon_tf.strategy.gradients.agreement import agree_on_values

NUM_WORKERS = 3
KINDS = {"float32": tf.float32, "bfloat16": tf.bfloat16, "int64": tf.int64, "bool": tf.bool}


class Gatherer:
    """The rounds of workers that are threads, and what each round carried."""

    def __init__(self) -> None:
        self.carried: list[tuple[str, int]] = []
        self._payloads: list[bytes] = [b""] * NUM_WORKERS
        self._met = threading.Barrier(NUM_WORKERS, timeout=30.0)

    def worker(self, rank: int) -> Any:
        """The part of a worker that an agreement uses."""

        def exchange(name: str, piece: bytes) -> list[bytes]:
            self._payloads[rank] = piece
            if self._met.wait() == 0:
                self.carried.append((name, max(map(len, self._payloads))))
            self._met.wait()
            payloads = list(self._payloads)
            self._met.wait()
            return payloads

        class Worker:
            def __init__(self) -> None:
                self.rank = rank
                self._gathers = Gathers(num_workers=NUM_WORKERS)

            def gather(self, what: str, payload: bytes) -> list[bytes]:
                return self._gathers.gather(what, payload, exchange)

            def gather_stream(self, what: str, num_bytes: int, content: Any, take: Any) -> None:
                self._gathers.stream(what, num_bytes, content, take, exchange)

        return Worker()


def agree(values: list[list[Any]], dtype: tf.DType) -> tuple[list[list[Any]], Gatherer]:
    """By worker: `values` become variables; what they hold after the agreement."""
    gatherer = Gatherer()

    def of(rank: int) -> list[Any]:
        variables = [
            tf.Variable(tf.cast(value, dtype), name=f"v{at}")
            for at, value in enumerate(values[rank])
        ]
        agree_on_values(gatherer.worker(rank), variables, what="first values")
        return [variable.numpy() for variable in variables]

    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        return list(pool.map(of, range(NUM_WORKERS))), gatherer


def drawn(shapes: Sequence[tuple[int, ...]], *, rank: int) -> list[Any]:
    """Other values on every rank."""
    random = np.random.default_rng(rank)
    return [random.integers(-100, 100, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("dtype", KINDS.values(), ids=list(KINDS))
def test_every_worker_has_the_values_of_rank_0_whatever_their_shapes(dtype: tf.DType) -> None:
    """Scalars, empty ones, and one that begins in one message and ends in another."""
    shapes = [(), (3, 5), (0, 4), (700, 800), (), (7,)]
    given = [drawn(shapes, rank=rank) for rank in range(NUM_WORKERS)]
    ended, _ = agree(given, dtype)
    expected = [tf.cast(value, dtype).numpy() for value in given[0]]
    for values in ended:
        for value, first in zip(values, expected, strict=True):
            assert value.dtype == first.dtype
            np.testing.assert_array_equal(value, first)


def test_many_small_variables_need_no_more_rounds_than_their_bytes() -> None:
    """One round for what differs, and one for each full message."""
    shapes = [(1000,)] * 600  # 2.4 MB.
    _, gatherer = agree([drawn(shapes, rank=rank) for rank in range(NUM_WORKERS)], tf.float32)
    sizes = [size for _, size in gatherer.carried[1:]]
    whole = 8 + 600 * 4000  # The length comes first.
    assert sizes == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, whole - 2 * MAX_PIECE_BYTES]


def test_equal_values_do_not_travel() -> None:
    """Only what differs on some worker."""
    shapes = [(4,), (8,), (16,)]
    given = [drawn(shapes, rank=0) for _ in range(NUM_WORKERS)]
    given[2][1] = given[2][1] + 1.0
    ended, gatherer = agree(given, tf.float32)
    assert [size for _, size in gatherer.carried[1:]] == [8 + 8 * 4]
    np.testing.assert_array_equal(ended[2][1], given[0][1])
