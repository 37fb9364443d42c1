"""Workers and servers of one process over real connections, without TensorFlow: a whole job."""

import json
import logging
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import MemberError, ProtocolError, StartTimeout
from poseidon_tf.kv.client import ServerLink
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.join import Membership, join
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.session.syncers import Sum
from tests.session.jobs_in_process import (
    DEADLINES,
    FC7,
    SIZES,
    WORDS,
    InProcess,
    Training,
    in_rank_order,
    pairs_of,
    rows_of,
    share,
    whole_of,
)
from tests.session.session_bench import WAIT_S, Deliveries
from tests.support.ports import free_addresses

pytestmark = pytest.mark.connections

PAIR_BYTES = 512 * 1024


CLUSTERS = [
    (2, 2),
    (3, 1),
    pytest.param(3, 0, id="co-located", marks=pytest.mark.processes),
]


def own_elements(rank: int, num_servers: int) -> int:
    """Numbers that the server on the host of worker `rank` sums in a step."""
    pairs = [pair for size in SIZES.values() for pair in pairs_of(size, num_servers, 10_000)]
    return sum(pair.length for pair in pairs if pair.server == rank)


@pytest.mark.parametrize("num_workers, num_servers", CLUSTERS)
def test_twenty_steps_have_the_bits_of_sums_in_rank_order(
    num_workers: int, num_servers: int
) -> None:
    """All workers get all sums and factors, bit for bit, and count their bytes exactly."""

    def work(member: Membership) -> Statistics:
        training = Training(member, num_workers, num_servers or num_workers)
        for step in range(20):
            training.step(step)
        return member.worker.statistics()

    statistics, codes = InProcess(num_workers, num_servers).run(work)
    assert codes == [0] * num_servers
    own_rows = [sum(rows_of(rank, step) for step in range(20)) for rank in range(num_workers)]
    own_bytes = [
        sum(
            FC7.num_bytes(rows_of(rank, step)) + 4 * 620 * whole_of(rank, step)
            for step in range(20)
        )
        for rank in range(num_workers)
    ]
    for rank, each in enumerate(statistics):
        assert (each.steps, each.ps.exchanges) == (20, 20 * len(SIZES))
        assert each.ps.sent_bytes == each.ps.received_bytes == 20 * 4 * sum(SIZES.values())
        assert each.all_reduce.sent_bytes == each.all_reduce.received_bytes
        assert each.all_reduce.sent_bytes == 8 * sum(step % 3 for step in range(20))
        assert each.sfb.sent_bytes == (num_workers - 1) * own_bytes[rank]
        assert each.sfb.received_bytes == sum(own_bytes) - own_bytes[rank]
        assert each.rows.sent_bytes == (num_workers - 1) * WORDS.row_bytes * own_rows[rank]
        on_own_host = 0 if num_servers else 20 * 4 * own_elements(rank, num_workers)
        assert each.ps.network_bytes == 2 * (each.ps.sent_bytes - on_own_host)
        assert each.sfb.network_bytes == each.sfb.sent_bytes
        assert each.rows.network_bytes == each.rows.sent_bytes
        assert each.ring_all_reduce_bytes == each.rows.sent_bytes + sum(
            2 * (num_workers - 1) * 20 * size // num_workers
            for size in (*[4 * size for size in SIZES.values()], 4 * 620)
        )
        assert each.reconnections == 0
        assert 0.0 <= each.waiting_s <= each.communicating_s
        assert each.step_times.steps == 19


@pytest.mark.parametrize("num_workers, num_servers", CLUSTERS)
def test_results_stay_as_they_are_while_they_are_used(num_workers: int, num_servers: int) -> None:
    """Two steps are under way at any time; a result that is kept outlives the steps after it,
    and a part of it keeps it; what is dropped is not missed."""
    size, num_steps = 40_005, 12
    ranks = range(num_workers)

    def work(member: Membership) -> int:
        delivered, kept = Deliveries(), {}
        route = member.worker.open_sum(
            "fc",
            "float32",
            pairs_of(size, num_servers or num_workers, 10_000),
            num_elements=size,
            purpose="ps",
            deliver=delivered,
        )
        rank = member.worker.rank
        route.push([share("fc", rank, 0, size)])
        for step in range(num_steps):
            if step + 1 < num_steps:
                route.push([share("fc", rank, step + 1, size)])
            at, (result,), error = delivered.next()
            assert error == ""
            if at % 3 < 2:
                kept[at] = result[5_000:] if at % 3 else result
            del result
        for at, result in kept.items():
            wanted = in_rank_order([share("fc", r, at, size) for r in ranks])
            assert result.tobytes() == wanted[-len(result) :].tobytes()
        return len(kept)

    results, _ = InProcess(num_workers, num_servers).run(work)
    assert results == [8] * num_workers


def test_framing_of_whole_pairs_is_within_two_percent() -> None:
    """8 MiB in 512 KiB pairs: the payload is exact, and little else is on the streams."""
    size = 16 * PAIR_BYTES // 4

    def work(member: Membership) -> Statistics:
        delivered = Deliveries()
        route = member.worker.open_sum(
            "fc",
            "float32",
            pairs_of(size, 2, PAIR_BYTES // 4),
            num_elements=size,
            purpose="ps",
            deliver=delivered,
        )
        for _ in range(3):
            route.push([np.ones(size, np.float32)])
            assert delivered.next()[2] == ""
        return member.worker.statistics()

    for statistics in InProcess(2, 2).run(work)[0]:
        payload_bytes = 3 * 4 * size
        assert statistics.ps.sent_bytes == statistics.ps.received_bytes == payload_bytes
        for counted in (statistics.servers.sent_bytes, statistics.servers.received_bytes):
            assert payload_bytes < counted < 1.02 * payload_bytes
        assert statistics.own_server.sent_bytes == 0
        # On the streams from and to the other worker: greetings, and its goodbye if it was quick.
        assert 0 < statistics.workers.sent_bytes < 100
        assert 0 < statistics.workers.received_bytes < 100


def test_sums_announced_together_ask_each_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening them asks nobody; a sum that was not announced is when it is opened."""
    asked, register = [], ServerLink.register

    def counted(link: ServerLink, specs: list[KeySpec], **options: Any) -> list[int]:
        asked.append((threading.get_ident(), link.address, len(specs)))
        return register(link, specs, **options)

    monkeypatch.setattr(ServerLink, "register", counted)

    def asked_by_me() -> list[int]:
        return sorted(n for thread, _, n in asked if thread == threading.get_ident())

    def work(member: Membership) -> int:
        sums = [Sum(name, "float32", pairs_of(size, 2, 10_000), 7) for name, size in SIZES.items()]
        member.worker.announce_sums(sums)
        assert asked_by_me() == [2, 5]  # Pairs of each server, in one call.
        for name, dtype, pairs, priority, _ in sums:
            delivered = Deliveries()
            route = member.worker.open_sum(
                name,
                dtype,
                pairs,
                num_elements=SIZES[name],
                purpose="ps",
                priority=priority,
                deliver=delivered,
            )
            route.push([np.ones(SIZES[name], np.float32)])
            _, (total,), error = delivered.next()
            assert error == "" and (total == 2.0).all()
        assert len(asked_by_me()) == 2
        member.worker.open_sum(
            "loss", "float64", None, num_elements=0, purpose="all_reduce", deliver=Deliveries()
        )
        return len(asked_by_me())

    assert InProcess(2, 2).run(work)[0] == [3, 3]


def test_a_worker_that_fails_fails_the_step_of_the_others() -> None:
    """Whoever waits for it gets an error that names it, and the servers end with 1."""
    pushed = threading.Event()

    def work(member: Membership) -> str:
        worker, delivered = member.worker, Deliveries()
        route = worker.open_sum(
            "fc", "float32", None, num_elements=4, purpose="ps", deliver=delivered
        )
        if worker.rank == 1:
            assert pushed.wait(WAIT_S)
            member.leave("ValueError: no more data")
            return ""
        route.push([np.ones(4, np.float32)])
        pushed.set()
        error = delivered.next()[2]
        assert isinstance(worker.session.failure, MemberError)
        return error

    (error, _), codes = InProcess(2, 1).run(work)
    assert "worker rank 1 " in error and "no more data" in error
    assert codes == [1]


def events_in(path: str) -> list[Any]:
    rows = json.loads(Path(path).read_text())["traceEvents"]
    return [row for row in rows if row["ph"] == "i"]


def test_a_worker_that_loses_the_coordinator_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the one that the coordinator tells of that: each in its own step, with its own wait, and
    with the file of its last events, if there were any."""
    monkeypatch.chdir(tmp_path)

    def work(member: Membership) -> str:
        worker, delivered = member.worker, Deliveries()
        route = worker.open_sum(
            "fc", "float32", None, num_elements=4, purpose="ps", deliver=delivered
        )
        worker.meet("begin")
        if worker.rank == 1:
            route.push([np.ones(4, np.float32)])
            stream = worker.coordinator._stream
            assert stream is not None
            stream.abort("pulled out")
            return delivered.next()[2]
        assert worker.session.job_failure.over.wait(WAIT_S)
        return str(worker.session.failure)

    (told, cut), codes = InProcess(2, 1).run(work)
    assert cut.startswith("the coordinator (worker rank 0 at ") and "closed the connection" in cut
    where = r"; rank 1 was in step 0 and waited for 'fc'; its last events are in (\S+)$"
    said = re.search(where, cut)
    assert said, cut
    assert said[1] == str(tmp_path / f"worker-1.{os.getpid()}.flight.trace.json")
    assert {row["args"]["step"] for row in events_in(said[1])} == {0}
    assert "worker rank 1 " in told
    assert told.endswith("; rank 0 was before its first step and waited for nothing")
    assert codes == [1]


def test_who_never_arrives_among_the_others_was_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """It raises what it waited for, and nothing is logged of a job that did not begin."""
    first, other, server = free_addresses(3)
    config = ClusterConfig(workers=(first, other), servers=(server,), rank=0)
    with caplog.at_level(logging.ERROR, "poseidon_tf"), pytest.raises(StartTimeout) as raised:
        join(config, arithmetic={}, deadlines=replace(DEADLINES, start_s=0.5))
    assert str(raised.value).startswith("1 of 3 members arrived")
    assert " was before its first step" not in str(raised.value)
    assert not caplog.records


def test_workers_that_disagree_on_a_size_are_told_so() -> None:
    """The second to announce a key hears how the first did, before anything is summed."""

    def work(member: Membership) -> str:
        size = 4 + member.worker.rank
        try:
            member.worker.open_sum(
                "fc", "float32", None, num_elements=size, purpose="ps", deliver=Deliveries()
            )
        except ProtocolError as refusal:
            return str(refusal)
        return ""

    texts, _ = InProcess(2, 1).run(work)
    (text,) = [text for text in texts if text]
    assert "'fc#0': rank" in text and "before it was announced as" in text
