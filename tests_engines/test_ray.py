"""Ray Train, in an environment of its own: `.venv-ray`, which `make test-engines` builds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests_engines.engine import ROOT, SCRIPTS, Folder, recipe

# Ray starts a process for each thing that it does, so a busy machine takes minutes.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]
PYTHON = str(ROOT / ".venv-ray" / "bin" / "python")
ENVIRON = {"RAY_USAGE_STATS_ENABLED": "0"}


def test_ray_train_trains_the_same_weights(tmp_path: Path, digest: str) -> None:
    folder = Folder(tmp_path, python=PYTHON)
    try:
        commands = recipe("ray.md", "A script as it is")
        assert folder.digest(commands, environ=ENVIRON, timeout_s=400.0) == digest
    finally:
        folder.end()


def test_a_range_of_workers_is_as_many_as_there_is_room_for(tmp_path: Path, digest: str) -> None:
    """The least of the range; they train as a job of that size."""
    folder = Folder(tmp_path, python=PYTHON)
    commands = recipe("ray.md", "With as many workers as there is room for")
    commands = commands.replace("python", f"python {SCRIPTS / 'ray_room.py'}")
    try:
        assert folder.digest(commands, environ=ENVIRON) == digest
    finally:
        folder.end()


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """One session of Ray with several fits, and what it says of them."""
    folder = Folder(tmp_path_factory.mktemp("ray"), python=PYTHON)
    ended = folder.run(f"python {SCRIPTS / 'ray_fits.py'}", environ=ENVIRON, timeout_s=800.0)
    assert ended.code == 0, ended.output[-6000:]
    yield folder, json.loads((folder.path / "said.json").read_text())
    folder.end()


def test_fits_of_one_session_follow_each_other(
    session: tuple[Folder, dict[str, Any]], digest: str
) -> None:
    """And nothing of one is left when the next begins, nor in the driver."""
    folder, said = session
    assert said["trained"]["error"] == "" and folder.found_digest("") == digest
    assert [said[name]["servers"] for name in ("trained", "raised", "killed")] == [0, 0, 0]
    assert said["threads"] == []


def test_the_exception_of_a_worker_is_rays_own(session: tuple[Folder, dict[str, Any]]) -> None:
    _, said = session
    assert "no more" in said["raised"]["error"], said["raised"]


def test_after_a_killed_worker_the_job_goes_on_from_its_backup(
    session: tuple[Folder, dict[str, Any]],
) -> None:
    """Rank 1 was killed in the third epoch of four updates each; what it had of that is lost."""
    folder, said = session
    assert said["killed"]["error"] == ""
    went_on, ended = folder.numbers("begin-1", "end-1")
    assert went_on == 8 and ended == 16


def test_no_process_outlives_the_session(session: tuple[Folder, dict[str, Any]]) -> None:
    folder, _ = session
    folder.check_nothing_runs()
