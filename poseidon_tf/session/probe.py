"""Measures what the links and this worker's processor can do, over the streams that steps use.

All workers probe at once, with keys that no variable has: small sums for latency and the price of
a message, then sums and factors as large as fit into a seventh of a second, or into several round
trips where those are long. Sizes are agreed on. A brief probe, between two epochs, takes a quarter
of that.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, final

import numpy as np

from poseidon_tf.errors import PoseidonError, StepTimeout
from poseidon_tf.planner import KVPair
from poseidon_tf.planner.measured import Measured, Seen, Way, joined
from poseidon_tf.session.arrivals import Arrivals
from poseidon_tf.session.syncers import Done, FactorSyncer, ServerSyncer, Sum, Syncer
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.factors import Columns, RowSpec
from poseidon_tf.sfb.service import CHUNK_BYTES
from poseidon_tf.transport.base import Traffic
from poseidon_tf.wire.dtypes import Array

FACTOR_PARTS = 8
KEYS = range(2**32 - FACTOR_PARTS, 2**32)
"""Of the probe's factors: no plan has so many units."""
LARGE_ROUNDS = 2
"""The first one warms up memory and connections; the better one counts."""
FIRST_BYTES = 256 * 1024
"""More than what a shaped link lets through at once; less would tell nothing of it."""
MOST_BYTES = 32 * 1024 * 1024
MOST_SIZES = 4
"""That are tried until one fills a round: a connection sends little at once at first."""
TRIPS_PER_ROUND = 10
LEAST_S = 1e-6
PAIR_BYTES = 1024 * 1024
LEAST_PAIR_BYTES = 64 * 1024
PAIRS_PER_SERVER = 16
_ROW = Columns(1024, "float32")
_DTYPE = "float32"
_ITEM_BYTES = 4
_SUM_BYTES = 4 * 1024 * 1024
_WHAT = "probe the links, which PoseidonStrategy does if it is asked to, and `poseidon-tf probe`"


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
      small_sums, round_trips: the shortest of so many counts.
      round_s: of large sums or factors; `TRIPS_PER_ROUND` round trips if that is longer.
    """

    small_sums: int
    round_trips: int
    round_s: float


THOROUGH = Effort(small_sums=20, round_trips=3, round_s=0.15)
BRIEF = Effort(small_sums=5, round_trips=1, round_s=0.04)


class _Used(NamedTuple):
    """What this process has spent and carried until now."""

    cpu_s: float
    messages: int
    num_bytes: int

    def since(self, before: _Used) -> _Used:
        return _Used(
            self.cpu_s - before.cpu_s,
            self.messages - before.messages,
            self.num_bytes - before.num_bytes,
        )


class _Rates(NamedTuple):
    """Bits a second, by member; seconds that the slowest took; and bytes that it was about."""

    bits_per_s: list[float]
    took_s: float
    num_bytes: int = 0


@final
class Probe:
    """Of one worker; a job has one, which may measure several times."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._changed = worker.session.job_failure.changed
        self._num_servers, self._num_workers = len(worker.links), worker.num_workers
        self._others = [rank for rank in range(self._num_workers) if rank != worker.rank]
        self._effort, self._round_s = THOROUGH, THOROUGH.round_s
        self._next_steps: dict[int, int] = {}  # By length of a sum: servers know it from before.

    def measure(
        self, *, flops_per_s: Callable[[], float] | None = None, effort: Effort = THOROUGH
    ) -> Measured:
        """What all workers measure, who call this at the same place in their programs.

        Args:
          flops_per_s: measures how fast this worker's device multiplies.
          effort: the same on all workers.

        Raises:
          PoseidonError: someone did not come in time, or the job failed.
        """
        worker, self._effort = self._worker, effort
        worker.gather(_WHAT, b"")
        begun_s = time.monotonic()
        speed = None if flops_per_s is None else flops_per_s()
        sum_byte_s = _sum_byte_s()
        trips = self._round_trips()
        self._round_s = max(effort.round_s, TRIPS_PER_ROUND * max(itertools.chain(*trips)))
        before = self._used()
        sum_s = self._small_sums()
        small = self._used().since(before)
        message_s = small.cpu_s / max(1, small.messages)
        before = self._used()
        sums = self._sized(self._sums)
        factors = self._sized(self._factors) if self._others else _Rates([0.0], 0.0)
        large = self._used().since(before)
        byte_s = max(0.0, large.cpu_s - large.messages * message_s) / max(1, large.num_bytes)
        seen = Seen(
            host=platform.node(),
            cores=len(os.sched_getaffinity(0)),
            servers=tuple(map(Way, trips[0], sums.bits_per_s)),
            workers=tuple(map(Way, trips[1], factors.bits_per_s)),
            own_server=worker.own_server,
            sum_s=sum_s,
            sums_bits_per_s=self._link_bits_per_s(sums, sum_s),
            message_s=message_s,
            byte_s=byte_s,
            sum_byte_s=sum_byte_s,
            flops_per_s=speed,
        )
        texts = [text.decode() for text in worker.gather(_WHAT, seen.to_json().encode())]
        took_s = time.monotonic() - begun_s
        return joined(texts, num_servers=self._num_servers, took_s=took_s)

    def _round_trips(self) -> tuple[list[float], list[float]]:
        """To each server, and to each worker."""
        session, links = self._worker.session, self._worker.links
        start_s, over = session.deadlines.start_s, session.job_failure.over
        to_servers, to_workers = [math.inf] * len(links), [math.inf] * self._num_workers
        to_workers[self._worker.rank] = 0.0
        with session.waiting_for("answers of servers and workers to the probe of links"):
            try:
                for _ in range(self._effort.round_trips):
                    for index, link in enumerate(links):
                        took_s = link.round_trip_s(timeout_s=start_s, over=over)
                        to_servers[index] = min(to_servers[index], took_s)
                    answers = self._worker.factors.round_trips_s(timeout_s=start_s, over=over)
                    for rank, took_s in answers.items():
                        to_workers[rank] = min(to_workers[rank], took_s)
            except PoseidonError as failure:
                raise session.fail_together(failure) from failure
        return to_servers, to_workers

    def _small_sums(self) -> float:
        """Seconds that the sum of one number takes, of the slowest server."""
        arrivals = Arrivals([1] * self._num_servers)
        syncers = self._open_sums(1, arrivals)
        one = np.ones(1, np.float32)
        shortest_s = math.inf
        for at, step in enumerate(self._steps_of_sums(1, self._effort.small_sums)):
            times_s = self._exchange(syncers, [one], step, arrivals, meets=at == 0)
            shortest_s = min(shortest_s, max(times_s))
        self._close(syncers)
        return shortest_s

    def _sums(self, num_bytes: int, rounds: int) -> _Rates:
        """Sums of so many bytes, over all servers: bytes that each server sent back, by time."""
        length = max(1, num_bytes // self._num_servers // _ITEM_BYTES)
        arrivals = Arrivals([1] * self._num_servers)
        syncers = self._open_sums(length, arrivals)
        numbers = np.ones(length, np.float32)

        def exchange(step: int) -> list[float]:
            return self._exchange(syncers, [numbers], step, arrivals, meets=True)

        steps = self._steps_of_sums(length, rounds)
        found = self._best(exchange, [length * _ITEM_BYTES] * self._num_servers, steps)
        self._close(syncers)
        return found

    def _factors(self, num_bytes: int, rounds: int) -> _Rates:
        """Factors of so many bytes, to all other workers together: what came from each, by time."""
        own, others = self._worker.rank, len(self._others)
        rows = max(1, num_bytes // others // FACTOR_PARTS // _ROW.row_bytes)
        numbers = np.ones((rows, _ROW.width), np.float32)
        pieces = FACTOR_PARTS * -(-numbers.nbytes // CHUNK_BYTES)
        due = [FACTOR_PARTS if rank == own else pieces for rank in range(self._num_workers)]
        arrivals = Arrivals(due)
        syncers = [self._open_factors(key, arrivals) for key in KEYS]
        self._worker.factors.on_piece = lambda rank, key: self._piece_arrived(arrivals, rank, key)

        def exchange(step: int) -> list[float]:
            return self._exchange(syncers, [numbers], step, arrivals, meets=True)

        from_each = [FACTOR_PARTS * numbers.nbytes * (rank != own) for rank in range(len(due))]
        found = self._best(exchange, from_each, range(rounds))
        self._worker.factors.on_piece = lambda rank, key: None
        for syncer in syncers:
            syncer.release()
        return found

    def _open_factors(self, key: int, arrivals: Arrivals) -> FactorSyncer:
        syncer = FactorSyncer(
            RowSpec(name="the probe of links", arrays=(_ROW,)),
            key=key,
            num_peers=len(self._others),
            factors=self._worker.factors,
            done=self._noted_by(arrivals, self._worker.rank),
            on_sent=lambda step: None,
        )
        self._worker.add_factor_syncer(key, syncer)
        return syncer

    def _sized(self, measure: Callable[[int, int], _Rates]) -> _Rates:
        """With as many bytes as all workers manage in the time of a round."""
        num_bytes, rounds = FIRST_BYTES, 1
        for _ in range(MOST_SIZES):
            found = measure(num_bytes, rounds)
            own = json.dumps([found.took_s, self._round_s]).encode()
            everyone = [json.loads(text) for text in self._worker.gather(_WHAT, own)]
            slowest_s, round_s = (max(map(float, each)) for each in zip(*everyone, strict=True))
            fitting = min(MOST_BYTES, _size(num_bytes * round_s / max(slowest_s, LEAST_S)))
            is_near = round_s <= self._effort.round_s  # There one size tells what fits.
            if fitting <= num_bytes * rounds or (is_near and num_bytes > FIRST_BYTES):
                break
            num_bytes, rounds = fitting, LARGE_ROUNDS
        return found

    def _best(
        self, exchange: Callable[[int], list[float]], num_bytes: Sequence[int], steps: Iterable[int]
    ) -> _Rates:
        best = _Rates([0.0] * len(num_bytes), math.inf)
        for step in steps:
            times_s = exchange(step)
            rates = [
                8 * size / max(took_s, LEAST_S)
                for size, took_s in zip(num_bytes, times_s, strict=True)
            ]
            best = _Rates(
                [max(pair) for pair in zip(best.bits_per_s, rates, strict=True)],
                min(best.took_s, max(times_s)),
                sum(num_bytes),
            )
        return best

    def _link_bits_per_s(self, sums: _Rates, sum_s: float) -> float:
        """What went through this host's link each way while the sums were made.

        A co-located server's part of what its worker sends stays on the host, but what the other
        workers send it comes to the host. The last piece crosses a link when its sum leaves, and
        the smallest sum takes as long as all of this without bytes.
        """
        P1, P2, num_bytes = self._num_workers, self._num_servers, float(sums.num_bytes)
        last_bytes = _pair_bytes(sums.num_bytes // P2)
        if self._worker.own_server is not None:
            num_bytes *= (P1 + P2 - 2) / P2
        return 8 * (num_bytes + last_bytes) / max(sums.took_s - sum_s, sums.took_s / 2)

    def _open_sums(self, length: int, arrivals: Arrivals) -> list[ServerSyncer]:
        """A sum of `length` numbers on each server."""
        pair = _pair_bytes(length * _ITEM_BYTES) // _ITEM_BYTES
        syncers = []
        for server in range(self._num_servers):
            pairs = [
                KVPair(0, index, begin, min(pair, length - begin), server)
                for index, begin in enumerate(range(0, length, pair))
            ]
            name = f"the probe of links, {length} numbers on server {server}"
            done = self._noted_by(arrivals, server)
            syncers.append(self._worker.open_server_syncer(Sum(name, _DTYPE, pairs), done))
        return syncers

    def _steps_of_sums(self, length: int, count: int) -> range:
        """The next ones of the sums of `length` numbers."""
        first = self._next_steps.get(length, 0)
        self._next_steps[length] = first + count
        return range(first, first + count)

    def _close(self, syncers: Iterable[ServerSyncer]) -> None:
        for syncer in syncers:
            self._worker.close_syncer(syncer)

    def _exchange(
        self,
        syncers: Sequence[Syncer],
        arrays: Sequence[Array],
        step: int,
        arrivals: Arrivals,
        *,
        meets: bool,
    ) -> list[float]:
        """Send, and wait for all that is to come: by member, after how many seconds it came.

        Args:
          meets: wait for the other workers before; they may have sent when that is over.
        """
        session, timeout_s = self._worker.session, self._worker.session.deadlines.start_s
        with self._changed:
            arrivals.clear()
        if meets:
            self._worker.gather(_WHAT, b"")
        arrivals.begin()
        for syncer in syncers:
            syncer.send(step, arrays)
        over = session.job_failure.over
        with session.waiting_for("the probe of links", self._worker.describe_missing):
            with self._changed:
                self._changed.wait_for(lambda: arrivals.are_complete or over.is_set(), timeout_s)
                if arrivals.are_complete:
                    return arrivals.times_s()
            owing = self._worker.describe_missing()
            raise session.fail_together(
                StepTimeout(
                    f"{session.name} waited {timeout_s:g} s for the probe of links: {owing}"
                )
            )

    def _noted_by(self, arrivals: Arrivals, member: int) -> Done:
        def done(step: int, results: list[Array]) -> None:
            with self._changed:
                arrivals.note(member)
                self._changed.notify_all()

        return done

    def _piece_arrived(self, arrivals: Arrivals, rank: int, key: int) -> None:
        if key in KEYS:
            with self._changed:
                arrivals.note(rank)

    def _used(self) -> _Used:
        streams: list[Traffic] = list(self._worker.factors.traffic())
        for link in self._worker.links:
            streams += link.traffic()
        return _Used(
            time.process_time(),
            sum(each.sent_messages + each.received_messages for each in streams),
            sum(each.sent_bytes + each.received_bytes for each in streams),
        )


def _size(num_bytes: float) -> int:
    """At most so many bytes, in one of four sizes to an octave: servers keep a key for each."""
    whole = max(1, int(num_bytes))
    step = max(1, 1 << (whole.bit_length() - 3))
    return whole // step * step


def _pair_bytes(num_bytes: int) -> int:
    """Of a piece of what one server sums."""
    return min(PAIR_BYTES, max(LEAST_PAIR_BYTES, num_bytes // PAIRS_PER_SERVER))


def _sum_byte_s() -> float:
    """Of adding up, as servers do it, in this process."""
    total = np.ones(_SUM_BYTES // _ITEM_BYTES, np.float32)
    share = np.ones_like(total)
    shortest_s = math.inf
    for _ in range(3):
        begun_s = time.perf_counter()
        np.add(total, share, out=total)
        shortest_s = min(shortest_s, time.perf_counter() - begun_s)
    return shortest_s / _SUM_BYTES
