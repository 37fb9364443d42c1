"""A job whose members are threads of this process, and training that checks every bit of it."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from poseidon_tf.coordinator.messages import Role
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.join import Membership, join
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.planner import KVPair
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.sfb.factors import Columns, RowSpec
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.wire.dtypes import Array
from tests.session.session_bench import WAIT_S, Deliveries
from tests.support.ports import free_addresses

DEADLINES = Deadlines(start_s=WAIT_S, step_s=WAIT_S, leave_s=WAIT_S, verdict_s=1.0)


class InProcess:
    """A job whose members are threads; `run` gives every worker the same work.

    Without dedicated servers each worker starts one, which is a process.

    Args:
      deadlines: of the workers.
      settings: of the dedicated servers' connections.
    """

    def __init__(
        self,
        num_workers: int,
        num_servers: int,
        *,
        deadlines: Deadlines = DEADLINES,
        settings: ConnectionSettings = ConnectionSettings(),
    ) -> None:
        self._deadlines, self._settings = deadlines, settings
        addresses = free_addresses(num_workers + num_servers)
        self.workers, self.servers = tuple(addresses[:num_workers]), tuple(addresses[num_workers:])

    def run(self, work: Callable[[Membership], Any]) -> tuple[list[Any], list[int]]:
        """`work(membership)` of every worker, and the servers' exit codes."""
        with ThreadPoolExecutor(len(self.workers) + len(self.servers)) as pool:
            codes = [pool.submit(self._serve, index) for index in range(len(self.servers))]
            results = [pool.submit(self._work, rank, work) for rank in range(len(self.workers))]
            return [r.result(3 * WAIT_S) for r in results], [c.result(WAIT_S) for c in codes]

    def _config(self, role: Role, rank: int) -> ClusterConfig:
        return ClusterConfig(workers=self.workers, servers=self.servers, role=role, rank=rank)

    def _serve(self, index: int) -> int:
        config = self._config("server", index)
        server = ServerProcess(
            config, index=index, address=self.servers[index], settings=self._settings
        )
        return server.serve()

    def _work(self, rank: int, work: Callable[[Membership], Any]) -> Any:
        member = join(self._config("worker", rank), arithmetic={}, deadlines=self._deadlines)
        try:
            return work(member)
        finally:
            member.leave()


def share(name: str, rank: int, step: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng([*name.encode(), rank, step])
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype(dtype)


def in_rank_order(shares: Iterable[Array]) -> np.ndarray:
    total, *rest = shares
    for each in rest:
        total = total + each
    return total


def pairs_of(num_elements: int, num_servers: int, length: int) -> list[KVPair]:
    """Pair after pair round the servers."""
    return [
        KVPair(0, index, begin, min(length, num_elements - begin), index % num_servers)
        for index, begin in enumerate(range(0, num_elements, length))
    ]


SIZES = {"conv": 1000, "bias": 3, "fc": 40_005}  # The last in five pairs.


FC7 = RowSpec.factors("fc7", M=30, N=20, dtype="float32", whole=Columns(620, "float32"))
WORDS = RowSpec.sparse("words", num_rows=50, width=5, dtype="float32", index_dtype="int32")


class Training:
    """Whole keys, a key cut over servers, a value of changing size, factors and sparse rows."""

    def __init__(self, member: Membership, num_workers: int, num_servers: int) -> None:
        self.worker, self.ranks = member.worker, range(num_workers)
        self.delivered, self.routes = {}, {}
        for name, size in SIZES.items():
            pairs = pairs_of(size, num_servers, 10_000)
            self._open(name, "float32", pairs, num_elements=size, purpose="ps")
        self._open("loss", "float64", None, num_elements=0, purpose="all_reduce")
        self.delivered["fc7"] = Deliveries()
        self.routes["fc7"] = self.worker.open_factors(
            0,
            FC7,
            deliver=self.delivered["fc7"],
        )
        self.delivered["words"] = Deliveries()
        self.routes["words"] = self.worker.open_factors(
            1, WORDS, purpose="rows", deliver=self.delivered["words"]
        )
        self.worker.gather("ready", b"")

    def _open(self, name: str, *args: Any, **options: Any) -> None:
        self.delivered[name] = Deliveries()
        self.routes[name] = self.worker.open_sum(
            name, *args, **options, deliver=self.delivered[name]
        )

    def contributions(self, rank: int, step: int) -> dict[str, list[Array]]:
        """What `rank` pushes in `step`: every name with its arrays."""
        rows = rows_of(rank, step)
        return {
            **{name: [share(name, rank, step, size)] for name, size in SIZES.items()},
            "loss": [share("loss", rank, step, step % 3, dtype="float64")],
            "fc7": [
                share("U", rank, step, rows, 30),
                share("V", rank, step, rows, 20),
                share("whole", rank, step, whole_of(rank, step), 620),
            ],
            "words": [
                np.arange(rows, dtype="int32") * (rank + 3),
                share("words", rank, step, rows, 5),
            ],
        }

    def step(self, step: int) -> None:
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


def whole_of(rank: int, step: int) -> int:
    """How many whole gradients: hardly ever one, as where one worker's step is traced anew."""
    return int((rank + step) % 5 == 4)


def rows_of(rank: int, step: int) -> int:
    """K: another one on every rank, and now and then none."""
    return (step + rank) % 4
