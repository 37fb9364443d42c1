"""Who is in a job, and which of them this process is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.address import Address

Role = Literal["worker", "server", "evaluator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Who is in the job, and which of them this process is.

    Args:
        workers: One ``host:port`` per worker, in rank order; a chief comes first. Empty where it
            is not known yet: such a worker chooses its own, and announces it when it joins.
        servers: One ``host:port`` per ``ps`` task; empty when the workers bring the servers.
        role: What this process is.
        rank: Worker rank (``role="worker"``) or server index (``role="server"``).
        source: What has said so, in words; empty where nothing has.
        node: Slurm's name of rank 0's node, where its address is that name and has still to be
            looked up.
    """

    workers: tuple[str, ...]
    servers: tuple[str, ...] = ()
    role: Role = "worker"
    rank: int = 0
    source: str = field(default="", compare=False)
    node: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        members = self.servers if self.role == "server" else self.workers
        if not self.workers or not 0 <= self.rank < len(members):
            raise ConfigError(
                f"a {self.role} needs a rank below the number of {self.role}s and a cluster "
                f"with a worker, got rank={self.rank}, workers={self.workers}, "
                f"servers={self.servers}"
            )

    @classmethod
    def single(cls, role: Role = "worker", *, source: str = "") -> ClusterConfig:
        """A cluster of this process alone. Its address is empty: nothing listens."""
        return cls(workers=("",), role=role, source=source)

    @classmethod
    def ranked(
        cls, rank: int, size: int, coordinator: Address | None, *, source: str
    ) -> ClusterConfig:
        """Worker `rank` of `size`, of whose addresses at most rank 0's is known."""
        if size == 1:
            return cls.single(source=source)
        first = "" if coordinator is None else str(coordinator)
        return cls(workers=(first, *[""] * (size - 1)), rank=rank, source=source)

    def with_worker(self, rank: int, address: str) -> ClusterConfig:
        """The same cluster; worker `rank` is at `address`."""
        workers = (*self.workers[:rank], address, *self.workers[rank + 1 :])
        return replace(self, workers=workers, node=self.node if rank else "")

    @property
    def is_single(self) -> bool:
        """Whether this process trains alone, without a server and without a port."""
        return self.num_workers == 1 and not self.servers

    @property
    def co_located(self) -> bool:
        """Whether every worker's host also holds a server (there is no ``ps`` task)."""
        return not self.servers

    @property
    def num_workers(self) -> int:
        return len(self.workers)

    @property
    def num_servers(self) -> int:
        """P2: the ``ps`` tasks; without them one per worker, and none for a single worker."""
        return 0 if self.is_single else len(self.servers) or self.num_workers

    @property
    def coordinator_address(self) -> str:
        """Where rank 0 listens; empty for a single worker."""
        return self.workers[0]

    @property
    def address(self) -> str:
        """Where this process listens; empty for a single worker, and where it is to choose."""
        return (self.servers if self.role == "server" else self.workers)[self.rank]
