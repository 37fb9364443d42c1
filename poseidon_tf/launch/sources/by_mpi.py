"""Asks MPI itself where rank 0 is."""

from __future__ import annotations

import socket
import time

from poseidon_tf.errors import ConfigError, StartTimeout

_ADDRESS_BYTES = 320  # A host's name has 255 at most.
_LOOK_S = 0.01


def address_of_rank_0(rank: int, size: int, *, port: int, timeout_s: float) -> str | None:
    """What rank 0 tells all others over MPI; None where mpi4py or its MPI is not installed.

    Args:
      rank, size: as the environment has them.
      port: on rank 0, where it is going to listen.

    Raises:
      ConfigError: mpi4py uses another MPI than the launcher.
      StartTimeout: not every process has asked in `timeout_s` seconds.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # The latter where the library of MPI is not found.
        return None
    world = MPI.COMM_WORLD
    if (world.Get_rank(), world.Get_size()) != (rank, size):
        raise ConfigError(
            f"MPI's launcher says worker rank {rank} of {size}, mpi4py rank {world.Get_rank()} of "
            f"{world.Get_size()}: it uses the library of another MPI; choose this one's by "
            "MPI4PY_LIBMPI, install mpi4py for it, or set POSEIDON_COORDINATOR (host:port of rank "
            "0)"
        )
    address = bytearray(_ADDRESS_BYTES)
    if rank == 0:
        text = f"{socket.gethostname()}:{port}".encode()
        address[: len(text)] = text
    told = world.Ibcast([address, MPI.BYTE], root=0)
    deadline_s = time.monotonic() + timeout_s
    while not told.Test():
        if time.monotonic() >= deadline_s:
            raise StartTimeout(
                f"worker rank {rank} of {size} has not heard over MPI where rank 0 is in "
                f"{timeout_s:g} s"
            )
        time.sleep(_LOOK_S)  # MPI goes on only while it is asked.
    return bytes(address).rstrip(b"\0").decode()
