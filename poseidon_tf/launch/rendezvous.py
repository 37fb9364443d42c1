"""Where a worker listens that nothing has given an address: towards rank 0, which all know."""

from __future__ import annotations

import logging
import socket
import time

from poseidon_tf.errors import ConfigError, StartTimeout
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.transport import listening
from poseidon_tf.transport.address import Address

_log = logging.getLogger("poseidon_tf")
_RETRY_S = 1.0
_FORWARDED_S = 5.0  # For what forwards to rank 0 to notice that it listens.


def located(config: ClusterConfig, *, interface: str, timeout_s: float) -> ClusterConfig:
    """`config`, in which rank 0 and this worker have hosts.

    Where this one had no address its port is 0, still to choose.

    Args:
      interface: the name or an address of the interface to listen on; "" for the one that leads to
        rank 0.
      timeout_s: for the name of rank 0's host to become known, which may start later.

    Raises:
      ConfigError: this machine has no such interface.
      StartTimeout: nothing leads to rank 0's host.
    """
    if config.is_single or config.role != "worker":
        return config
    coordinator = Address.parse(config.coordinator_address)
    if config.node:
        from poseidon_tf.launch.sources import by_slurm

        coordinator = Address(by_slurm.host_of(config.node), coordinator.port)
        config = config.with_worker(0, str(coordinator))
    if config.address:
        return config
    if interface:
        host = listening.host_on(interface, coordinator)
    else:
        host = _host_towards(coordinator, rank=config.rank, timeout_s=timeout_s)
    return config.with_worker(config.rank, str(Address(host, 0)))


def check_own_address(config: ClusterConfig) -> None:
    """Say so where the address that a member was given is another machine's; it listens already.

    It may be that of something that forwards to this member. Rank 0 has to reach itself there, as
    everybody else does; the others are only called by others, and get a warning.

    Raises:
      ConfigError: this is rank 0, and nothing forwards to it.
    """
    own = Address.parse(config.address)
    if not listening.is_elsewhere(own.host):
        return
    text = (
        f"{config.role} rank {config.rank} is to be reached at {own}, which is no address of this "
        f"machine (it has {', '.join(listening.own_addresses())})"
    )
    if config.role != "worker" or config.rank > 0:
        _log.warning(
            "%s: it listens on all interfaces, in case something forwards to it; else mend its "
            "address in TF_CONFIG",
            text,
        )
        return
    silence = listening.silence_at(own, timeout_s=_FORWARDED_S)
    if silence is not None:
        raise ConfigError(
            f"{text}, and nothing there leads here ({silence}); set POSEIDON_COORDINATOR, or the "
            "address in TF_CONFIG, to host:port of the machine on which rank 0 runs"
        ) from silence


def _host_towards(coordinator: Address, *, rank: int, timeout_s: float) -> str:
    deadline_s = time.monotonic() + timeout_s
    has_said = False
    while True:
        try:
            return listening.host_towards(coordinator)
        except OSError as failure:
            left_s = deadline_s - time.monotonic()
            unknown = isinstance(failure, socket.gaierror)
            what = "its name is unknown here" if unknown else "no route leads there"
            text = (
                f"worker rank {rank} cannot find the host of worker rank 0 ({coordinator}): {what} "
                f"({failure})"
            )
            if left_s <= 0:
                raise StartTimeout(
                    f"{text}, for {timeout_s:g} s; set POSEIDON_COORDINATOR to an address of it"
                ) from failure
            if not has_said:
                _log.warning("%s; trying again for %g s", text, timeout_s)
                has_said = True
            time.sleep(min(_RETRY_S, left_s))  # Nothing tells when a name becomes known.
