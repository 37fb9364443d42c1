"""Workers and servers of one process over real connections, without TensorFlow: a whole job."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from session_bench import WAIT_S, Deliveries

from poseidon_tf.errors import MemberError, ProtocolError
from poseidon_tf.launch.cluster_env import ClusterConfig
from poseidon_tf.launch.join import join
from poseidon_tf.launch.server_main import serve
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.sync.session import Deadlines
from tests.support.jobs import free_addresses

DEADLINES = Deadlines(start_s=WAIT_S, step_s=WAIT_S, leave_s=WAIT_S, verdict_s=1.0)
PAIR_BYTES = 512 * 1024


class InProcess:
    """A job whose members are threads; `run` gives every worker the same work.

    Without dedicated servers each worker starts one, which is a process.
    """

    def __init__(self, num_workers, num_servers):
        addresses = free_addresses(num_workers + num_servers)
        self.workers, self.servers = tuple(addresses[:num_workers]), tuple(addresses[num_workers:])

    def run(self, work):
        """`work(membership)` of every worker, and the servers' exit codes."""
        with ThreadPoolExecutor(len(self.workers) + len(self.servers)) as pool:
            codes = [pool.submit(self._serve, index) for index in range(len(self.servers))]
            results = [pool.submit(self._work, rank, work) for rank in range(len(self.workers))]
            return [r.result(3 * WAIT_S) for r in results], [c.result(WAIT_S) for c in codes]

    def _config(self, role, rank):
        return ClusterConfig(workers=self.workers, servers=self.servers, role=role, rank=rank)

    def _serve(self, index):
        return serve(self._config("server", index), index=index, address=self.servers[index])

    def _work(self, rank, work):
        member = join(self._config("worker", rank), arithmetic={}, deadlines=DEADLINES)
        try:
            return work(member)
        finally:
            member.leave()


def share(name: str, rank: int, step: int, *shape: int, dtype="float32") -> np.ndarray:
    rng = np.random.default_rng([*name.encode(), rank, step])
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype(dtype)


def in_rank_order(shares) -> np.ndarray:
    total, *rest = shares
    for each in rest:
        total = total + each
    return total


def pairs_of(num_elements: int, num_servers: int, length: int) -> list[tuple[int, int, int]]:
    """(server, offset, length), pair after pair round the servers."""
    return [
        (index % num_servers, begin, min(length, num_elements - begin))
        for index, begin in enumerate(range(0, num_elements, length))
    ]


SIZES = {"conv": 1000, "bias": 3, "fc": 40_005}  # The last in five pairs.


WORDS = RowSpec.sparse("words", num_rows=50, width=5, dtype="float32", index_dtype="int32")


class Training:
    """Whole keys, a key cut over servers, a value of changing size, factors and sparse rows."""

    def __init__(self, member, num_workers, num_servers):
        self.worker, self.ranks = member.worker, range(num_workers)
        self.delivered, self.routes = {}, {}
        for name, size in SIZES.items():
            pairs = pairs_of(size, num_servers, 10_000)
            self._open(name, "float32", pairs, num_elements=size, purpose="ps")
        self._open("loss", "float64", None, num_elements=0, purpose="all_reduce")
        self.delivered["fc7"] = Deliveries()
        self.routes["fc7"] = self.worker.open_factors(
            0,
            RowSpec.factors("fc7", M=30, N=20, dtype="float32"),
            deliver=self.delivered["fc7"],
        )
        self.delivered["words"] = Deliveries()
        self.routes["words"] = self.worker.open_factors(
            1, WORDS, purpose="rows", deliver=self.delivered["words"]
        )
        self.worker.gather("ready", b"")

    def _open(self, name, *args, **options):
        self.delivered[name] = Deliveries()
        self.routes[name] = self.worker.open_sum(
            name, *args, **options, deliver=self.delivered[name]
        )

    def contributions(self, rank, step):
        """What `rank` pushes in `step`: every name with its arrays."""
        rows = rows_of(rank, step)
        return {
            **{name: [share(name, rank, step, size)] for name, size in SIZES.items()},
            "loss": [share("loss", rank, step, step % 3, dtype="float64")],
            "fc7": [share("U", rank, step, rows, 30), share("V", rank, step, rows, 20)],
            "words": [
                np.arange(rows, dtype="int32") * (rank + 3),
                share("words", rank, step, rows, 5),
            ],
        }

    def step(self, step):
        by_rank = [self.contributions(rank, step) for rank in self.ranks]
        own = by_rank[self.worker.rank]
        for name in list(own)[:: 1 if self.worker.rank % 2 else -1]:
            self.routes[name].push(own[name])
        for name in own:
            at, results, error = self.delivered[name].next()
            assert (at, error) == (step, "")
            together = np.concatenate if name in ("fc7", "words") else in_rank_order
            wanted = [together(arrays) for arrays in zip(*(p[name] for p in by_rank), strict=True)]
            assert [a.tobytes() for a in results] == [a.tobytes() for a in wanted]


def rows_of(rank: int, step: int) -> int:
    """K: another one on every rank, and now and then none."""
    return (step + rank) % 4


CLUSTERS = [
    (2, 2),
    (3, 1),
    pytest.param(3, 0, id="co-located", marks=pytest.mark.processes),
]


@pytest.mark.parametrize("num_workers, num_servers", CLUSTERS)
def test_twenty_steps_have_the_bits_of_sums_in_rank_order(num_workers, num_servers):
    """All workers get all sums and factors, bit for bit, and count their bytes exactly."""

    def work(member):
        training = Training(member, num_workers, num_servers or num_workers)
        for step in range(20):
            training.step(step)
        return member.worker.statistics()

    statistics, codes = InProcess(num_workers, num_servers).run(work)
    assert codes == [0] * num_servers
    row_bytes = 4 * (30 + 20)
    own_rows = [sum(rows_of(rank, step) for step in range(20)) for rank in range(num_workers)]
    for rank, each in enumerate(statistics):
        assert (each.steps, each.ps.exchanges) == (20, 20 * len(SIZES))
        assert each.ps.sent_bytes == each.ps.received_bytes == 20 * 4 * sum(SIZES.values())
        assert each.all_reduce.sent_bytes == each.all_reduce.received_bytes
        assert each.all_reduce.sent_bytes == 8 * sum(step % 3 for step in range(20))
        assert each.sfb.sent_bytes == (num_workers - 1) * row_bytes * own_rows[rank]
        assert each.sfb.received_bytes == row_bytes * (sum(own_rows) - own_rows[rank])
        assert each.rows.sent_bytes == (num_workers - 1) * WORDS.row_bytes * own_rows[rank]


@pytest.mark.parametrize("num_workers, num_servers", CLUSTERS)
def test_results_stay_as_they_are_while_they_are_used(num_workers, num_servers):
    """Two steps are under way at any time; a result that is kept outlives the steps after it,
    and a part of it keeps it; what is dropped is not missed."""
    size, num_steps = 40_005, 12
    ranks = range(num_workers)

    def work(member):
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


def test_framing_of_whole_pairs_is_within_two_percent():
    """8 MiB in 512 KiB pairs: the payload is exact, and little else is on the streams."""
    size = 16 * PAIR_BYTES // 4

    def work(member):
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
        # On the streams from and to the other worker: greetings.
        assert statistics.workers.sent_messages == statistics.workers.received_messages == 2


def test_a_worker_that_fails_fails_the_step_of_the_others():
    """Whoever waits for it gets an error that names it, and the servers end with 1."""
    pushed = threading.Event()

    def work(member):
        worker, delivered = member.worker, Deliveries()
        route = worker.open_sum(
            "fc", "float32", None, num_elements=4, purpose="ps", deliver=delivered
        )
        if worker.rank == 1:
            assert pushed.wait(WAIT_S)
            member.fail("ValueError: no more data")
            return ""
        route.push([np.ones(4, np.float32)])
        pushed.set()
        error = delivered.next()[2]
        assert isinstance(worker.session.failure, MemberError)
        return error

    (error, _), codes = InProcess(2, 1).run(work)
    assert "worker rank 1 " in error and "no more data" in error
    assert codes == [1]


def test_workers_that_disagree_on_a_size_are_told_so():
    """The second to announce a key hears how the first did, before anything is summed."""

    def work(member):
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
