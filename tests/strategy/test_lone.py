"""What one worker does alone waits for nobody."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def taking_turns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Each worker has had its turn, in which the other was no help."""
    folder = tmp_path_factory.mktemp("lone")
    for rank in range(2):
        os.mkfifo(folder / f"turn-{rank}")
    with Job("lone.py", str(folder)) as job:
        return folder, job.results()


@pytest.mark.parametrize("rank", [0, 1])
def test_reads_and_writes_on_one_worker_alone_come_back(taking_turns: Any, rank: int) -> None:
    """Models, weights, checkpoints, metrics and variables of every kind."""
    folder, workers = taking_turns
    assert {"save", "export", "checkpoint", "metric", "variables", "call"} <= set(
        workers[rank]["done"]
    )
    written = {path.name for path in (folder / f"written-{rank}").iterdir()}
    assert {"model.keras", "model.weights.h5", "exported", "checkpoint.index"} <= written
    assert workers[rank]["loaded"]


def test_a_lone_metric_is_the_workers_own(taking_turns: Any) -> None:
    """Each has counted one number."""
    assert [worker["metric"] for worker in taking_turns[1]] == [2.0, 3.0]


def test_the_workers_go_on_training_as_before(taking_turns: Any) -> None:
    """With the same bits: weights, statistics, random states, the optimizer's variables."""
    first, second = taking_turns[1]
    assert first["after"] == second["after"]
