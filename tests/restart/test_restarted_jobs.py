"""A job that is started again after a fault ends as if there had been none, bit for bit."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.jobs import SCRIPTS, Job
from tests.support.supervised import run_supervised

pytestmark = pytest.mark.processes
TIMEOUT_S = 150.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What both ranks have at the end of a job in which nobody dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with Job("restarted.py", str(folder), "-1") as job:
        first, second = job.results(timeout_s=TIMEOUT_S)
    assert first == second and first["epochs"] == [0, 1, 2]
    return first


def check(results, undisturbed):
    """Trained from the second epoch on, with the same bits."""
    assert results["epochs"] == [1, 2]
    assert results["digest"] == undisturbed["digest"]
    assert results["loss"] == undisturbed["loss"]


def test_the_launcher_restarts_a_job_whose_worker_was_killed(undisturbed, tmp_path):
    """`poseidon-tf run --max-restarts 1`: SIGKILL in an epoch costs that epoch and no bit."""
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "2", "--servers", "1"]
    done = subprocess.run(
        [*command, "--max-restarts", "1", str(SCRIPTS / "restarted.py"), str(tmp_path), "1"],
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "4",
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[poseidon-tf] worker 1 ended with code 137; restart 1 of 1" in done.stderr
    for rank in (0, 1):
        check(results_of(done.stdout, f"[worker {rank}] RESULT "), undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["died"]  # The backup is gone.


def results_of(output, lead):
    lines = [line.removeprefix(lead) for line in output.splitlines() if line.startswith(lead)]
    return {name: json.loads(value) for name, value in (line.split(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    "victim", [1, pytest.param(0, marks=pytest.mark.thorough, id="0, which hosts the coordinator")]
)
def test_a_supervisor_restarts_each_process_as_it_dies(undisturbed, tmp_path, victim):
    """In any order, while others are still of the run before; servers are restarted as well."""
    with Job("restarted.py", str(tmp_path), str(victim)) as job:
        restarted = run_supervised(job, timeout_s=TIMEOUT_S)
        # Once each: nobody took the end of the run before for its own.
        assert restarted[0] == f"worker {victim}"
        assert sorted(restarted) == ["ps 0", "worker 0", "worker 1"]
        for worker in job.workers:
            check(worker.results(), undisturbed)
        assert [path.name for path in tmp_path.iterdir()] == ["died"]
