"""The environment in, one ``ClusterConfig`` out.

Rule 1: nothing else in the package reads ``os.environ``.
Rule 2: what its variables mean is in `sources`, loaded where somebody asks: a server that a worker
        starts is told who is in the job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.transport.address import Address

INTERFACE = "POSEIDON_INTERFACE"


def current_environ() -> dict[str, str]:
    """A copy of this process's environment, for processes that it starts."""
    return dict(os.environ)


def drop_empty_config() -> None:
    """Unset a blank ``TF_CONFIG``: it counts as none here, but TensorFlow cannot read it."""
    if not os.environ.get("TF_CONFIG", "none").strip():
        del os.environ["TF_CONFIG"]


def read_cluster(
    environ: Mapping[str, str] | None = None,
    *,
    resolver: Any = None,
    ports: tuple[int, int] | None = None,
    timeout_s: float = 120.0,
) -> ClusterConfig:
    """The cluster that the environment describes; this process alone where nothing does.

    Args:
        environ: The environment to read; this process's own by default.
        resolver: A ``tf.distribute.cluster_resolver.ClusterResolver`` that comes before it.
        ports: First and last port that the job may use.
        timeout_s: For the processes of an MPI job to meet, where only they know an address.

    Raises:
        ConfigError: What is there describes no cluster, or two different ones, or shows that this
            process is one of several and not where the others are.
        StartTimeout: Not every process of an MPI job has come.
    """
    from poseidon_tf.launch.sources import by_mpi, table
    from poseidon_tf.launch.sources.told import OR_ALONE, Level, Process

    process = Process(
        environ=os.environ if environ is None else environ,
        resolver=resolver,
        ports=ports,
        starter=_starter,
    )
    told = table.choose(process)
    if told is None:
        return ClusterConfig.single()
    config = told.config
    if config.is_single or config.coordinator_address:
        return config
    if told.level is Level.MPI:
        port = process.port(f"mpi {os.getpid()}")  # Of rank 0, which tells the others.
        address = by_mpi.address_of_rank_0(
            config.rank, config.num_workers, port=port, timeout_s=timeout_s
        )
        if address is not None:
            return config.with_worker(0, str(Address.parse(address)))
    raise ConfigError(
        f"{told.words}, but not where rank 0 is ({told.unknown}); set POSEIDON_COORDINATOR to "
        f"host:port of rank 0 in every process, {OR_ALONE}"
    )


def _starter() -> int:
    """The process that has started this one's session; 0 where that is not to be seen."""
    import psutil

    try:
        return int(psutil.Process(os.getsid(0)).ppid())
    except psutil.Error:  # It has ended, or is in another container.
        return 0
