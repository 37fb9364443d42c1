"""Open MPI and MPICH. Needs Debian's openmpi-bin and mpich, and MPI for Python in `.mpi4py`."""

from __future__ import annotations

import socket

import pytest

from tests_engines.engine import ROOT, Folder, recipe

pytestmark = pytest.mark.processes
# Of two MPIs on one machine; and Open MPI starts nothing for root, nor more than there are cores.
PROGRAMS = {"mpirun": "mpirun.openmpi", "mpiexec": "mpiexec.hydra"}
ENVIRON = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}
# As if each process were on a host of its own. mpi4py looks for a library of MPI by itself; of two
# on one machine it has to be told.
ON_SEVERAL_HOSTS = "OMPI_COMM_WORLD_LOCAL_SIZE=1 MPI_LOCALNRANKS=1 MPI4PY_LIBMPI=libmpi.so.40"
OPEN_MPI, MPICH = "Open MPI on one host", "MPICH and Intel MPI on one host"
MPI4PY = {"PYTHONPATH": str(ROOT / ".mpi4py")}


def commands(heading: str) -> str:
    text = recipe("mpi.md", heading)
    for usual, this in PROGRAMS.items():
        text = text.replace(f"{usual} ", f"{this} ")
    return text


@pytest.mark.parametrize("heading", [OPEN_MPI, MPICH, "Several hosts"])
def test_mpi_trains_the_same_weights(folder: Folder, digest: str, heading: str) -> None:
    assert folder.digest(commands(heading), environ=ENVIRON) == digest


def on_several_hosts(heading: str) -> str:
    return commands(heading).replace("python", f"env {ON_SEVERAL_HOSTS} python")


def test_mpi4py_tells_where_rank_0_is(folder: Folder, digest: str) -> None:
    text = on_several_hosts(OPEN_MPI)
    assert folder.digest(text, environ={**ENVIRON, **MPI4PY}) == digest


def test_mpi4py_of_another_mpi_than_the_launchers_is_refused(folder: Folder) -> None:
    text = on_several_hosts(MPICH)
    ended = folder.run(text, environ={**ENVIRON, **MPI4PY})
    folder.check_refused(ended, "of 2, mpi4py rank 0 of 1", "MPI4PY_LIBMPI")


@pytest.mark.parametrize(
    "heading, setting, texts",
    [
        (
            OPEN_MPI,
            "POSEIDON_RANK=0 POSEIDON_WORLD_SIZE=3 POSEIDON_COORDINATOR=127.0.0.1:5000",
            ["Open MPI", "of 2", "POSEIDON_WORLD_SIZE says worker rank 0 of 3"],
        ),
        (OPEN_MPI, "POSEIDON_COORDINATOR=127.0.0.1:{taken}", ["127.0.0.1:{taken}", "in use"]),
        (
            OPEN_MPI,
            "OMPI_COMM_WORLD_LOCAL_SIZE=1",
            ["not where rank 0 is", "POSEIDON_COORDINATOR"],
        ),
        (
            OPEN_MPI,
            "-u OMPI_COMM_WORLD_SIZE",
            ["OMPI_COMM_WORLD_SIZE is not set", "one of several"],
        ),
        (MPICH, "MPI_LOCALNRANKS=1", ["not where rank 0 is", "POSEIDON_COORDINATOR"]),
        (MPICH, "-u PMI_SIZE", ["PMI_SIZE is not set", "one of several"]),
    ],
    ids=[
        "contradiction",
        "another program's port",
        "several hosts",
        "no size",
        "several hosts of MPICH",
        "no size of MPICH",
    ],
)
def test_processes_that_cannot_form_a_cluster_end(
    folder: Folder, heading: str, setting: str, texts: list[str]
) -> None:
    """And do not train a model each."""
    with socket.create_server(("127.0.0.1", 0)) as program:
        port = str(program.getsockname()[1])
        setting, *texts = [text.replace("{taken}", port) for text in (setting, *texts)]
        text = commands(heading).replace("python", f"env {setting} python")
        ended = folder.run(text, environ=ENVIRON)
    folder.check_refused(ended, *texts)
