"""A job that is started again after a fault ends as if there had been none, bit for bit."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.support import launched
from tests.support.jobs import Job, script_named
from tests.support.supervised import run_supervised, turns_of

pytestmark = pytest.mark.processes
TIMEOUT_S = 240.0


Undisturbed: TypeAlias = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """By the number of servers: what both ranks have at the end of a job in which nobody dies."""

    @functools.cache
    def results(num_servers: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("undisturbed")
        with Job("restarted.py", str(folder), "nobody", num_servers=num_servers) as job:
            first, second = job.results(timeout_s=TIMEOUT_S)
        assert first == second and first["epochs"] == [0, 1, 2]
        return first

    return results


def check(results: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Trained from the second epoch on, with the same bits."""
    assert results["epochs"] == [1, 2]
    assert results["digest"] == undisturbed["digest"]
    assert results["loss"] == undisturbed["loss"]


def check_folder(folder: Path) -> None:
    """The backup is gone, and all were in two runs, the second one of a larger number."""
    assert {path.name for path in folder.iterdir()} == {"died", "runs-0", "runs-1"}
    runs, others = ((folder / f"runs-{rank}").read_text().split() for rank in (0, 1))
    assert runs == others
    first, second = map(int, runs)
    assert first < second


@pytest.mark.parametrize(
    "victim, named",
    [
        ("worker 1", "worker 1"),
        pytest.param("ps 0", "server 0", marks=pytest.mark.thorough),
    ],
)
def test_the_launcher_restarts_a_job_of_which_a_process_was_killed(
    undisturbed: Undisturbed, tmp_path: Path, victim: str, named: str
) -> None:
    """`poseidon-tf run --max-restarts 1`: SIGKILL in an epoch costs that epoch and no bit."""
    done = launched.run(
        *("run", "--workers", "2", "--servers", "1", "--max-restarts", "1"),
        *(str(script_named("restarted.py")), str(tmp_path), victim),
        environ={"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "4"},
        timeout_s=TIMEOUT_S,
    )
    assert done.code == 0, done.stdout + done.stderr
    assert f"[poseidon-tf] {named} ended with code 137; restart 1 of 1" in done.stderr
    for rank in (0, 1):
        check(results_of(done.stdout, f"[worker {rank}] RESULT "), undisturbed(1))
    check_folder(tmp_path)


def results_of(output: str, lead: str) -> dict[str, Any]:
    lines = [line.removeprefix(lead) for line in output.splitlines() if line.startswith(lead)]
    return {name: json.loads(value) for name, value in (line.split(" ", 1) for line in lines)}


def thorough(*case: object) -> Any:
    return pytest.param(*case, marks=pytest.mark.thorough)


AT_ONCE = None


@pytest.mark.parametrize(
    "victim, num_servers, seed",
    [
        ("worker 1", 0, AT_ONCE),
        thorough("ps 0", 1, 4),  # The coordinator is neither the first one nor the last one.
        *(thorough(f"worker {rank}", 1, AT_ONCE) for rank in (0, 1)),
        thorough("worker 0", 1, 5),  # The last one that is started again is worker 1, ...
        thorough("worker 1", 1, 1),  # ... the server, ...
        thorough("ps 0", 1, AT_ONCE),
        thorough("worker 0", 0, 6),  # ... the one that hosts the coordinator.
        thorough("server beside 0", 0, 7),
        thorough("server beside 1", 0, AT_ONCE),
    ],
)
def test_a_supervisor_restarts_each_process_that_has_failed(
    undisturbed: Undisturbed, tmp_path: Path, victim: str, num_servers: int, seed: int | None
) -> None:
    """In any order, and after any delay, while others are still of the run before."""
    names = ["worker 0", "worker 1", *(["ps 0"] * num_servers)]
    turns = turns_of(seed, names) if seed is not AT_ONCE else []
    with Job("restarted.py", str(tmp_path), victim, num_servers=num_servers) as job:
        restarted = run_supervised(job, timeout_s=TIMEOUT_S, turns=turns)
        # Once each: nobody took the end of the run before for its own.
        assert sorted(restarted) == sorted(names)
        if turns:
            assert restarted == [name for name, _ in turns]
        elif victim in names:
            assert restarted[0] == victim
        for worker in job.workers:
            check(worker.results(), undisturbed(num_servers))
        check_folder(tmp_path)
