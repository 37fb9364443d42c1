"""Spark in barrier mode, in an environment of its own: `.venv-spark`. Needs a Java runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests_engines.engine import ROOT, SCRIPTS, Folder, recipe

pytestmark = [pytest.mark.processes, pytest.mark.timeout(500)]
PYTHON = str(ROOT / ".venv-spark" / "bin" / "python")
RECIPE = recipe("spark.md", "A script as it is")


def environ_in(path: Path) -> dict[str, str]:
    """Spark's workers write beside its programs where nothing says otherwise."""
    return {"SPARK_WORKER_DIR": str(path / "work"), "SPARK_LOCAL_IP": "127.0.0.1"}


def test_spark_trains_the_same_weights(tmp_path: Path, digest: str) -> None:
    folder = Folder(tmp_path, python=PYTHON)
    try:
        assert folder.digest(RECIPE, environ=environ_in(tmp_path), timeout_s=300.0) == digest
    finally:
        folder.end()


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """One session of Spark with two fits, each tried twice at most, and what it says of them."""
    folder = Folder(tmp_path_factory.mktemp("spark"), python=PYTHON)
    commands = RECIPE.replace(
        "spark_train.py train.py",
        f"--conf spark.stage.maxConsecutiveAttempts=2 {SCRIPTS / 'spark_fits.py'}",
    )
    environ = {**environ_in(folder.path), "KILLED": "1"}
    ended = folder.run(commands, environ=environ, timeout_s=400.0)
    assert ended.code == 0, ended.output[-6000:]
    yield folder, json.loads((folder.path / "said.json").read_text())
    folder.end()


def test_the_exception_of_a_worker_reaches_the_driver(
    session: tuple[Folder, dict[str, Any]],
) -> None:
    _, said = session
    assert "ArithmeticError: no more" in said["no_more"]["error"], said["no_more"]


def test_after_a_killed_worker_the_stage_goes_on_from_its_backup(
    session: tuple[Folder, dict[str, Any]],
) -> None:
    """Rank 1 was killed in the third epoch of four updates each; what it had of that is lost."""
    folder, said = session
    assert said["backed_up"]["error"] == ""
    went_on, ended = folder.numbers("begin-1", "end-1")
    assert went_on == 8 and ended == 16


def test_nothing_is_left_of_a_fit_nor_of_the_session(
    session: tuple[Folder, dict[str, Any]],
) -> None:
    folder, said = session
    assert (said["no_more"]["servers"], said["backed_up"]["servers"]) == (0, 0)
    assert said["threads"] == []
    folder.check_nothing_runs()
