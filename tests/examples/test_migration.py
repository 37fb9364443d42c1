"""The listings of the pages on migration, run as they stand there, train the same net."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone, script_named
from tests.support.ports import free_addresses

pytestmark = pytest.mark.processes

LEGACY = {"TF_USE_LEGACY_KERAS": "1"}  # With which `tf.keras` is Keras 2.


@pytest.mark.thorough
def test_the_pages_script_gives_what_it_gave_under_mirrored_strategy() -> None:
    """Two workers against two replicas in one process, from the same seed: history, weights, and
    the checkpoint, which rank 0 alone has written."""
    mirrored: dict[str, Any] = run_alone("migration.py", "migration.md", "MirroredStrategy")
    assert mirrored["replicas"] == 2 and mirrored["steps"] == 8 * 1024 // 64
    with Job("migration.py", "migration.md", "PoseidonStrategy") as job:
        workers = job.results()
    assert [worker["saved"] for worker in workers] == [True, False]
    for worker in workers:
        for what in ("replicas", "steps"):
            assert worker[what] == mirrored[what]
        assert worker["history"] == workers[0]["history"]
        assert worker["weights"] == workers[0]["weights"]
    assert mirrored["history"]["accuracy"][-1] > 0.85
    for what in ("history", "weights", "loaded"):
        assert_close(workers[0][what], mirrored[what], rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_script_of_multi_worker_mirrored_strategy_learns_before_and_after() -> None:
    """On the same TF_CONFIG, in as many steps, with one history and one checkpoint for all."""
    page = "migration/multi-worker-mirrored.md"
    with Job("migration.py", page, "Before", num_servers=0, environ=LEGACY) as job:
        before = job.results()
    with Job("migration.py", page, "After", num_servers=0) as job:
        after = job.results()
    for workers in (before, after):
        assert [worker["saved"] for worker in workers] == [True, False]
        for worker in workers:
            assert (worker["replicas"], worker["steps"]) == (2, 8 * 1024 // 64)
            assert worker["weights"] == workers[0]["weights"]
            assert worker["history"]["accuracy"][-1] > 0.85
    assert after[0]["history"] == after[1]["history"]


@pytest.mark.thorough
def test_the_script_that_had_parameter_servers_learns_in_step() -> None:
    """Two workers and a server: every sample once in an epoch, and the same weights on both."""
    with Job("migration.py", "migration/parameter-server.md", "After") as job:
        workers = job.results()
    for worker in workers:
        assert (worker["replicas"], worker["steps"]) == (2, 8 * 1024 // 64)
        assert worker["weights"] == workers[0]["weights"]
        assert worker["right"] > 0.85


@pytest.mark.thorough
def test_the_script_that_had_parameter_servers_learned_before() -> None:
    """Under TensorFlow's own strategy and Keras 2, in batches of one worker."""
    tasks = ("chief", "worker", "ps")
    cluster = {task: [each] for task, each in zip(tasks, free_addresses(3), strict=True)}
    with contextlib.ExitStack() as stack:
        for task in ("worker", "ps"):  # They serve until they are ended.
            stack.enter_context(ended(start(cluster, task)))
        chief = stack.enter_context(ended(start(cluster, "chief")))
        printed, _ = chief.communicate(timeout=200)
    assert chief.returncode == 0, printed[-4000:]
    found = dict(line.split(" ", 2)[1:] for line in printed.splitlines() if "RESULT " in line)
    assert float(found["right"]) > 0.85 and int(found["steps"]) == 8 * 1024 // 32


def start(cluster: dict[str, list[str]], task: str) -> subprocess.Popen[str]:
    config = {"cluster": cluster, "task": {"type": task, "index": 0}}
    return subprocess.Popen(
        [
            sys.executable,
            str(script_named("migration.py")),
            "migration/parameter-server.md",
            "Before",
        ],
        env={**os.environ, **LEGACY, "TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE if task == "chief" else subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Ends it at last, however the test has gone."""
    with process:
        try:
            yield process
        finally:
            process.kill()
