"""A file that is saved appears when it is whole; what was there before stays until then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.keras_hooks.whole_files import save_whole
from tests.support.jobs import Job

DIES = """
import os, signal, sys
from poseidon_tf.keras_hooks.whole_files import save_whole

def save(path):
    with open(path, "w") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

save_whole(save, sys.argv[1], part="rank-0")
"""


def saving(text: str) -> Any:
    return lambda path, *args, **kwargs: Path(path).write_text(text)


@pytest.mark.processes
def test_a_kill_in_the_middle_leaves_what_was_there_before(tmp_path: Path) -> None:
    """And what it leaves beside is gone after the next save."""
    path = tmp_path / "latest.weights.h5"
    save_whole(saving("whole"), path, part="rank-0")
    died = subprocess.run([sys.executable, "-c", DIES, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert path.read_text() == "whole" and len(os.listdir(tmp_path)) == 2
    save_whole(saving("next"), path, part="rank-0")
    assert path.read_text() == "next" and os.listdir(tmp_path) == [path.name]


def test_an_error_while_saving_leaves_nothing_beside(tmp_path: Path) -> None:
    """It is raised as it is."""
    path = tmp_path / "model.keras"
    path.write_text("whole")

    def save(unfinished: str) -> None:
        Path(unfinished).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_whole(save, path, part="rank-0")
    assert path.read_text() == "whole" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "name, args, kwargs",
    [
        ("gs://bucket/model.keras", (), {}),
        ("folder", (), {}),
        ("m.weights.h5", (True, 1.0), {}),
        ("m.weights.h5", (), {"max_shard_size": 1}),
        ("m.keras", (), {"zipped": False}),
    ],
)
def test_what_is_not_one_local_file_is_saved_as_keras_does(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Under the name that was given."""
    saved = save_whole(lambda path, *args, **kwargs: path, name, *args, part="rank-0", **kwargs)
    assert saved == name


def test_keras_asks_before_it_overwrites(tmp_path: Path) -> None:
    """About the file that is there, where it may not simply be replaced."""
    path = tmp_path / "m.keras"
    path.write_text("old")
    saved = save_whole(lambda path, **kwargs: path, path, part="rank-0", overwrite=False)
    assert saved == path


@pytest.mark.processes
def test_whoever_loads_what_rank_0_saves_meanwhile_finds_whole_files(tmp_path: Path) -> None:
    """By `save` and `save_weights`, again and again under the same names."""
    with Job("reading.py", str(tmp_path)) as job:
        saver, reader = job.results()
    assert saver["saves"] >= 20
    assert reader["loads"] >= 3 and reader["errors"] == []
    assert sorted(os.listdir(tmp_path)) == ["m.weights.h5", "model.keras"]
