"""``TF_CONFIG`` in, one ``ClusterConfig`` out.

Rule 1: nothing else in the package reads ``os.environ``.
Rule 2: this file does not know processes, sockets or TensorFlow. An address leaves it as text, in
        the one way to write it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.address import Address

Role = Literal["worker", "server", "evaluator"]

_CHIEF_JOBS = ("chief", "master")
_JOBS = (*_CHIEF_JOBS, "worker", "ps", "evaluator")
_EXAMPLE = (
    'TF_CONFIG looks like {"cluster": {"worker": ["host0:5000", "host1:5000"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Who is in the job, and which of them this process is.

    Args:
        workers: One ``host:port`` per worker, in rank order; a chief comes first.
        servers: One ``host:port`` per ``ps`` task; empty when the workers bring the servers.
        role: What this process is.
        rank: Worker rank (``role="worker"``) or server index (``role="server"``).
    """

    workers: tuple[str, ...]
    servers: tuple[str, ...] = ()
    role: Role = "worker"
    rank: int = 0

    def __post_init__(self) -> None:
        members = self.servers if self.role == "server" else self.workers
        if not self.workers or not 0 <= self.rank < len(members):
            raise ConfigError(
                f"a {self.role} needs a rank below the number of {self.role}s and a cluster "
                f"with a worker, got rank={self.rank}, workers={self.workers}, "
                f"servers={self.servers}"
            )

    @classmethod
    def single(cls, role: Role = "worker") -> "ClusterConfig":
        """A cluster of this process alone. Its address is empty: nothing listens."""
        return cls(workers=("",), role=role)

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
        """Where this process listens; empty for a single worker."""
        return (self.servers if self.role == "server" else self.workers)[self.rank]


def current_environ() -> dict[str, str]:
    """A copy of this process's environment, for processes that it starts."""
    return dict(os.environ)


def drop_empty_config() -> None:
    """Unset a blank ``TF_CONFIG``: it counts as none here, but TensorFlow cannot read it."""
    if not os.environ.get("TF_CONFIG", "none").strip():
        del os.environ["TF_CONFIG"]


def read_cluster(environ: Mapping[str, str] | None = None) -> ClusterConfig:
    """The cluster that ``TF_CONFIG`` describes; without one, this process alone.

    The chief is rank 0 and worker i is then rank i + 1; without a chief worker i is rank i.
    An evaluator, and the only worker of a cluster without ``ps``, gets a single cluster.

    Args:
        environ: The environment to read; this process's own by default.

    Raises:
        ConfigError: ``TF_CONFIG`` is there but does not describe a cluster.
    """
    text = (os.environ if environ is None else environ).get("TF_CONFIG", "")
    if not text.strip():
        return ClusterConfig.single()
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"TF_CONFIG must be JSON, got {text!r} ({error}). {_EXAMPLE}") from error
    config = _object(parsed, "TF_CONFIG")
    if not config.get("cluster") and not config.get("task"):
        return ClusterConfig.single()  # "{}", as TensorFlow itself reads it.

    cluster = _object(config.get("cluster"), "TF_CONFIG's 'cluster'")
    task = _object(config.get("task"), "TF_CONFIG's 'task'")
    jobs = _addresses_by_job(cluster)
    chiefs = jobs["chief"] + jobs["master"]
    workers, servers = chiefs + jobs["worker"], jobs["ps"]
    if len(chiefs) > 1:
        raise ConfigError(
            f"TF_CONFIG may list one chief (or master), got {len(chiefs)}: {', '.join(chiefs)}; "
            "move the others to 'worker'"
        )
    if not workers:
        raise ConfigError(
            f"TF_CONFIG's 'cluster' needs at least one 'worker' or 'chief', got {cluster!r}; "
            "servers alone cannot train"
        )

    job, index = _task_of(task, jobs)
    if job == "evaluator":
        return ClusterConfig.single("evaluator")
    if job == "ps":
        return ClusterConfig(workers=workers, servers=servers, role="server", rank=index)
    if len(workers) == 1 and not servers:
        return ClusterConfig.single()
    rank = index + len(chiefs) if job == "worker" else 0
    return ClusterConfig(workers=workers, servers=servers, role="worker", rank=rank)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or (not value and name != "TF_CONFIG"):
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{name} must be a JSON object that is not empty, got {got}. {_EXAMPLE}")
    return value


def _addresses_by_job(cluster: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every job's addresses, checked; an evaluator's are taken unread, as nobody calls it."""
    jobs: dict[str, tuple[str, ...]] = dict.fromkeys(_JOBS, ())
    owners: dict[Address, str] = {}
    for job, tasks in cluster.items():
        if job not in jobs:
            raise ConfigError(
                f"TF_CONFIG's 'cluster' has the unknown job {job!r}; known are {', '.join(_JOBS)}"
            )
        if job == "evaluator":
            continue
        addresses = []
        for index, text in enumerate(_tasks(job, tasks)):
            owner = f"{job} {index}"
            if not isinstance(text, str):
                raise ConfigError(f"TF_CONFIG, {owner}: an address is a string, got {text!r}")
            try:
                address = Address.parse(text)
            except ConfigError as error:
                raise ConfigError(f"TF_CONFIG, {owner}: {error}") from error
            other = owners.setdefault(address, owner)
            if other != owner:
                raise ConfigError(
                    f"TF_CONFIG gives {other} and {owner} the same address {address}; "
                    "every task needs its own port"
                )
            addresses.append(str(address))
        jobs[job] = tuple(addresses)
    return jobs


def _tasks(job: str, tasks: Any) -> list[Any]:
    """A job's addresses by index: from a list, or from an object whose keys are the indices."""
    if isinstance(tasks, list):
        return tasks
    if not isinstance(tasks, dict):
        raise ConfigError(
            f"TF_CONFIG must give {job!r} a list of 'host:port' addresses, or an object "
            f'{{"0": "host:port", ...}}, got {tasks!r}'
        )
    by_index: dict[int, Any] = {}
    for key, address in tasks.items():
        index = _index(key)
        if index is None or index < 0 or index in by_index:
            raise ConfigError(
                f"TF_CONFIG's {job!r} must have each index once as a key, counted from 0, got "
                f"{key!r} in {tasks!r}"
            )
        by_index[index] = address
    for index in range(len(by_index)):
        if index not in by_index:
            raise ConfigError(
                f"TF_CONFIG's {job!r} has no address of {job} {index}, got {tasks!r}; every member "
                "must know all others, so give all of them, as a list or as an object without gaps "
                "(Kubeflow: leave enableDynamicWorker off)"
            )
    return [by_index[index] for index in range(len(by_index))]


def _index(value: Any) -> int | None:
    """An index, which TensorFlow takes as text too; None if it is none."""
    # The length keeps int() away from a string of thousands of digits.
    if isinstance(value, str) and value.isascii() and len(value) <= 9:
        is_number = value.removeprefix("-").isdigit()
        return int(value) if is_number else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _task_of(task: dict[str, Any], jobs: dict[str, tuple[str, ...]]) -> tuple[str, int]:
    """The task's job and its index in that job's list."""
    job, index = task.get("type"), _index(task.get("index"))
    if not isinstance(job, str) or job not in jobs:
        raise ConfigError(f"TF_CONFIG's task 'type' must be one of {', '.join(_JOBS)}, got {job!r}")
    if index is None:
        raise ConfigError(f"TF_CONFIG's task 'index' must be an integer, got {task.get('index')!r}")
    # An evaluator need not be listed in the cluster: nobody waits for it.
    limit = len(jobs[job]) if job != "evaluator" else index + 1
    if not 0 <= index < limit:
        raise ConfigError(
            f"TF_CONFIG's task is {job} {index}, but its 'cluster' lists {limit} {job} "
            f"address(es), counted from 0; add this task's address or mend its index"
        )
    return job, index
