"""A process that an MPI launcher has started: it knows its rank, but nobody's address.

On one host that does no harm. Where several take part, mpi4py can tell, if it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told, parsed_address, rank_and_size

_UNKNOWN = (
    "MPI's launcher names no address where several hosts take part; mpi4py can tell, if it is "
    "installed for this MPI"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Variables:
    """Of one kind of MPI.

    Args:
      local_size: how many processes are on this host.
      jobs: the names of the job; the first that is set counts.
      level: of a process that has no `local_size`.
    """

    kind: str
    rank: str
    size: str
    local_size: str
    jobs: tuple[str, ...] = ()
    level: Level = Level.MPI


_OPEN_MPI = _Variables(
    kind="Open MPI",
    rank="OMPI_COMM_WORLD_RANK",
    size="OMPI_COMM_WORLD_SIZE",
    local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
    jobs=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
)
_MVAPICH = _Variables(
    kind="MVAPICH",
    rank="MV2_COMM_WORLD_RANK",
    size="MV2_COMM_WORLD_SIZE",
    local_size="MV2_COMM_WORLD_LOCAL_SIZE",
)
# MPICH's and Intel MPI's own launcher counts the processes of a host; schedulers do not, and are
# found by variables of their own, with the same rank.
_PMI = _Variables(
    kind="MPI",
    rank="PMI_RANK",
    size="PMI_SIZE",
    local_size="MPI_LOCALNRANKS",
    level=Level.SCHEDULER,
)


def open_mpi(process: Process) -> Told | None:
    """`OMPI_COMM_WORLD_RANK` and its relatives."""
    return _told(process, _OPEN_MPI)


def mvapich(process: Process) -> Told | None:
    """`MV2_COMM_WORLD_RANK` and its relatives."""
    return _told(process, _MVAPICH)


def pmi(process: Process) -> Told | None:
    """`PMI_RANK` and its relatives: of MPICH, Intel MPI and schedulers."""
    return _told(process, _PMI)


def _told(process: Process, names: _Variables) -> Told | None:
    found = rank_and_size(process, names.rank, names.size)
    if found is None:
        return None
    has_local = bool(process.text(names.local_size))
    first = None
    if has_local and process.number(names.local_size) == found[1] > 1:
        jobs = [process.text(name) for name in names.jobs if process.text(name)]
        job = jobs[0] if jobs else str(process.starter())
        first = parsed_address(names.rank, "127.0.0.1", port=process.port(f"mpi {job}"))
    source = f"{names.kind} ({names.rank}, {names.size})"
    return Told(
        config=ClusterConfig.ranked(*found, first, source=source),
        level=Level.MPI if has_local else names.level,
        unknown=_UNKNOWN,
    )
