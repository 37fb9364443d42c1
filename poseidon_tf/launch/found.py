"""What a process is before it joins: its place in the cluster, and how its connections behave."""

from __future__ import annotations

from typing import Any, NamedTuple

from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import INTERFACE, current_environ, read_cluster
from poseidon_tf.launch.protocol_env import read_protocol
from poseidon_tf.launch.rendezvous import located
from poseidon_tf.launch.security_env import read_security
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.security import Security


class Found(NamedTuple):
    """The cluster with this process in it, and the settings of its connections."""

    config: ClusterConfig
    settings: ConnectionSettings


def find_cluster(
    *,
    deadlines: Deadlines,
    resolver: Any = None,
    alone: bool = False,
    ports: tuple[int, int] | None = None,
    interface: str | None = None,
    protocol: Protocol | None = None,
    security: Security | None = None,
) -> Found:
    """As the arguments say, which are those of `PoseidonStrategy`, and the environment else.

    Raises:
      ConfigError: what describes the cluster is wrong, or the files of its security are.
      StartTimeout: rank 0, or its host, cannot be found in `deadlines.start_s`.
    """
    environ, start_s = current_environ(), deadlines.start_s
    config = ClusterConfig.single()
    if not alone:
        config = read_cluster(resolver=resolver, ports=ports, timeout_s=start_s)
        host = interface or environ.get(INTERFACE, "")
        config = located(config, interface=host, timeout_s=start_s)
    checked = read_security(environ, security)
    here = Address.parse(config.address, lowest_port=0) if config.address else None
    checked.check(here.name_in_certificates if here else None)
    return Found(config, deadlines.connections(checked, read_protocol(environ, protocol), ports))
