"""The probe of links in a whole job without TensorFlow: its figures, and what it leaves behind."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poseidon_tf.errors import ConfigError, MemberError, PoseidonError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.join import Membership, join
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.planner import Measured
from poseidon_tf.session.probe import (
    BRIEF,
    FIRST_BYTES,
    MOST_BYTES,
    MOST_SIZES,
    THOROUGH,
    Probe,
    _Rates,
    _size,
)
from poseidon_tf.session.statistics import Statistics
from tests.session.jobs_in_process import DEADLINES, SIZES, InProcess, Training

pytestmark = pytest.mark.connections

STEPS = 3


class Alone:
    """What a probe that is alone needs of its worker."""

    links: tuple[()] = ()
    num_workers, rank = 1, 0
    session = SimpleNamespace(job_failure=SimpleNamespace(changed=None))

    def gather(self, what: str, own: bytes) -> list[bytes]:
        return [own]


def trained(num_workers: int, num_servers: int, *, probes: bool) -> list[Any]:
    """By rank: what was measured, and the statistics after three checked steps."""

    def work(member: Membership) -> tuple[Measured | None, Statistics]:
        found = Probe(member.worker).measure(flops_per_s=lambda: 1e9) if probes else None
        training = Training(member, num_workers, num_servers or num_workers)
        for step in range(STEPS):
            training.step(step)
        return found, member.worker.statistics()

    results, codes = InProcess(num_workers, num_servers).run(work)
    assert codes == [0] * num_servers
    return results


@pytest.mark.parametrize(
    "num_workers, num_servers",
    [(2, 2), (3, 1), pytest.param(2, 0, marks=pytest.mark.processes, id="co-located")],
)
def test_all_workers_have_the_same_figures_and_train_as_without_them(
    num_workers: int, num_servers: int
) -> None:
    """Every way has been measured; sums and factors that follow have the bits they should have."""
    results = trained(num_workers, num_servers, probes=True)
    plain = trained(num_workers, num_servers, probes=False)
    first = results[0][0]
    for rank, (found, statistics) in enumerate(results):
        assert found.seen == first.seen
        own = found.seen[rank]
        assert len(own.servers) == (num_servers or num_workers)
        assert all(way.round_trip_s > 0 and way.bits_per_s > 0 for way in own.servers)
        for other, way in enumerate(own.workers):
            assert (way.round_trip_s > 0, way.bits_per_s > 0) == (other != rank, other != rank)
        assert own.own_server == (None if num_servers else rank)
        assert min(own.sum_s, own.message_s, own.sum_byte_s) > 0
        assert own.byte_s >= 0  # What messages do not explain; all members share one process here.
        assert own.flops_per_s == 1e9
        assert found.machines().link.bits_per_s > 0
        assert found.took_s < 30
        for name in ("steps", "ps", "sfb", "rows", "all_reduce", "ring_all_reduce_bytes"):
            assert getattr(statistics, name) == getattr(plain[rank][1], name)


def test_links_can_be_measured_again_between_two_steps() -> None:
    """In brief, as often as one likes; training goes on with its bits, and nothing is kept."""

    def work(member: Membership) -> tuple[list[Measured], int]:
        training, probe = Training(member, 2, 2), Probe(member.worker)
        found = []
        for step in range(4):
            training.step(step)
            found.append(probe.measure(effort=BRIEF if step else THOROUGH))
        training.step(4)
        return found, sum(len(expected._units) for expected in member.worker._expected)

    ((first, kept), (second, _)), _ = InProcess(2, 2).run(work)
    for one, other in zip(first, second, strict=True):
        assert one.seen == other.seen
        assert min(one.link_bits_per_s(rank) for rank in range(2)) > 0
    assert kept == sum(-(-size // 10_000) for size in SIZES.values()) + 1  # Those of `Training`.


def test_sums_of_the_probe_have_few_sizes() -> None:
    """Servers keep a key for each, for as long as the job lasts."""
    asked = range(FIRST_BYTES, MOST_BYTES, 1009)
    sizes = {num_bytes: _size(num_bytes) for num_bytes in asked}
    assert len(set(sizes.values())) == 4 * 7
    assert all(0.8 * asked <= size <= asked for asked, size in sizes.items())


def test_who_is_gone_before_the_probe_is_named() -> None:
    """Nobody waits for it for longer than the coordinator takes to tell."""

    def work(member: Membership) -> str:
        if member.worker.rank == 1:
            member.leave("its disk is full")
            return ""
        with pytest.raises(PoseidonError) as caught:
            Probe(member.worker).measure()
        return str(caught.value)

    (said, _, also), _ = InProcess(3, 0).run(work)
    for text in (said, also):
        assert "worker rank 1" in text
        assert "its disk is full" in text


def test_all_workers_probe_or_none_does() -> None:
    """One that does not would let the others wait for it; all are told at the start."""
    job = InProcess(2, 1)

    def begin(rank: int) -> str:
        with pytest.raises((ConfigError, MemberError)) as caught:
            join(
                ClusterConfig(workers=job.workers, servers=job.servers, rank=rank),
                arithmetic={},
                deadlines=DEADLINES,
                measures="plan_by='time', probe" if rank == 0 else "",
            )
        return str(caught.value)

    def serve() -> int:
        config = ClusterConfig(workers=job.workers, servers=job.servers, role="server")
        return ServerProcess(config, index=0, address=job.servers[0]).serve()

    with ThreadPoolExecutor(3) as pool:
        server = pool.submit(serve)
        texts = list(pool.map(begin, range(2)))
        assert server.result(60) == 1
    for text in texts:
        assert (
            "worker rank 0 has plan_by='time', probe, worker rank 1 has no probe; give all workers "
            "the same plan_by and probe" in text
        )


def test_a_round_is_as_long_as_several_round_trips() -> None:
    """A connection sends little at once at first: what comes in its first round trips says little.

    100 MB/s, 50 ms away, of which each round trip doubles what may be under way, from 100 kB on.
    """
    under_way, sizes = [100e3], []

    def measure(num_bytes: int, rounds: int) -> _Rates:
        took_s = math.inf
        for _ in range(rounds):
            left, now_s = float(num_bytes), 0.05
            while left > 0:
                at_once = min(under_way[0], 0.05 * 100e6)
                now_s += 0.05 * min(1.0, left / at_once)
                left -= at_once
                under_way[0] = max(under_way[0], 2 * at_once)
            took_s = min(took_s, now_s)
        sizes.append(num_bytes)
        return _Rates([8 * num_bytes / took_s], took_s)

    probe = Probe(cast(Any, Alone()))
    probe._round_s = 10 * 0.05
    (found,) = probe._sized(measure).bits_per_s
    assert sizes[0] == FIRST_BYTES and sizes == sorted(sizes) and len(sizes) <= MOST_SIZES
    assert 8 * 80e6 < found <= 8 * 100e6
