"""Slurm, with two nodes whose names are those of no hosts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests_engines.engine import SCRIPTS, Folder, recipe
from tests_engines.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.processes
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def test_srun_trains_the_same_weights(folder: Folder, cluster: SlurmCluster, digest: str) -> None:
    commands = recipe("slurm.md", "At the terminal")
    assert folder.digest(commands, environ=cluster.environ) == digest


def test_a_batch_job_trains_the_same_weights(
    folder: Folder, cluster: SlurmCluster, digest: str
) -> None:
    commands = recipe("slurm.md", "As a batch job")
    assert folder.digest(commands, environ=cluster.environ) == digest


@pytest.mark.parametrize(
    "setting, texts",
    [
        (
            "POSEIDON_RANK=0 POSEIDON_WORLD_SIZE=3 POSEIDON_COORDINATOR=127.0.0.1:5000",
            [
                "Slurm step",
                "of 2",
                "POSEIDON_WORLD_SIZE says worker rank 0 of 3",
            ],
        ),
        ("POSEIDON_COORDINATOR=127.0.0.1:{taken}", ["127.0.0.1:{taken}", "in use"]),
        ("SLURM_STEP_NODELIST=", ["not where rank 0 is", "POSEIDON_COORDINATOR"]),
    ],
    ids=["contradiction", "another program's port", "no address"],
)
def test_tasks_that_cannot_form_a_cluster_end(
    folder: Folder, cluster: SlurmCluster, setting: str, texts: list[str]
) -> None:
    """And do not train a model each."""
    with socket.create_server(("127.0.0.1", 0)) as program:
        port = str(program.getsockname()[1])
        setting, *texts = [text.replace("{taken}", port) for text in (setting, *texts)]
        commands = recipe("slurm.md", "At the terminal").replace("python", f"env {setting} python")
        ended = folder.run(commands, environ=cluster.environ)
    folder.check_refused(ended, *texts)


def test_a_preempted_job_goes_on_where_it_was(folder: Folder, cluster: SlurmCluster) -> None:
    """A job of a partition with a higher priority takes its nodes for a moment."""
    submit = recipe("slurm.md", "As a batch job")
    submit = submit.replace("--wait", "--parsable").replace(
        "train.py", str(SCRIPTS / "backed_up.py")
    )
    job = folder.run(submit, environ=cluster.environ).output.strip()
    folder.wait_for(lambda: folder.has("end-0"))
    urgent = folder.run("srun -p urgent -N 2 -n 2 true", environ=cluster.environ)
    assert urgent.code == 0, urgent.output
    folder.wait_for(lambda: cluster.state(job) == "PENDING 1")
    cluster.start_soon(job)
    folder.wait_for(lambda: cluster.state(job).startswith(ENDED))
    assert cluster.state(job) == "COMPLETED 1", (folder.path / f"slurm-{job}.out").read_text()
    first, went_on, last = folder.numbers("end-0", "begin-1", "end-1")
    assert 0 < first == went_on < last
    folder.check_nothing_runs()


def test_a_job_goes_on_with_the_nodes_that_are_free(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another job has taken one of its three."""
    submit = recipe("slurm.md", "With as many nodes as are free")
    submit = submit.replace("--wait", "--parsable").replace(
        "train.py", str(SCRIPTS / "backed_up.py")
    )
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), num_nodes=3) as cluster:
        job = folder.run(submit, environ=cluster.environ).output.strip()
        folder.wait_for(lambda: folder.has("end-0"))
        urgent = folder.start(
            "exec srun -p urgent -N 1 -n 1 sleep 1000", folder.path / "urgent.txt", cluster.environ
        )
        folder.wait_for(lambda: cluster.state(job) == "PENDING 1")
        cluster.start_soon(job)
        folder.wait_for(lambda: cluster.state(job).startswith(ENDED))
        output = (folder.path / f"slurm-{job}.out").read_text()
        assert cluster.state(job) == "COMPLETED 1", output
        assert folder.numbers("workers-0", "workers-1") == [3, 2]
        first, went_on, last = folder.numbers("end-0", "begin-1", "end-1")
        assert 0 < first == went_on < last
        assert "fit goes on with 2 workers instead of 3" in output
        urgent.terminate()  # `srun` ends its task.
        urgent.wait()
        folder.check_nothing_runs()
