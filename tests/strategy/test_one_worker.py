"""A process without TF_CONFIG trains alone, as under TensorFlow's own one-device strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ways of training leave their weights."""
    return tmp_path_factory.mktemp("one_worker")


@pytest.fixture(scope="module")
def poseidon(folder: Path) -> dict[str, Any]:
    """What a process found that trained with an empty TF_CONFIG, which counts as none."""
    return run_alone("equality.py", str(folder), "poseidon", "dense,lstm")


def test_one_worker_equals_one_device_strategy_bit_for_bit(
    folder: Path, poseidon: dict[str, Any]
) -> None:
    """Both strategies end with the same bits in every weight."""
    one_device = run_alone("equality.py", str(folder), "one_device", "dense,lstm")
    assert len(poseidon["digests"]) == 4
    assert poseidon["digests"] == one_device["digests"]
    ours, theirs = np.load(folder / "poseidon-0.npz"), np.load(folder / "one_device-0.npz")
    assert sorted(ours.files) == sorted(theirs.files)
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours.files)


def test_one_worker_starts_no_thread(poseidon: dict[str, Any]) -> None:
    """After training no thread of this package runs."""
    assert "MainThread" in poseidon["threads"]
    assert not [name for name in poseidon["threads"] if name.startswith("poseidon")]


def test_one_worker_opens_no_port(poseidon: dict[str, Any]) -> None:
    """After training the process listens nowhere."""
    assert poseidon["ports"] == []


def test_one_worker_has_no_plan(poseidon: dict[str, Any]) -> None:
    """Nothing is sent, so there is nothing to plan."""
    assert poseidon["plan"] == []


def test_one_worker_with_a_server_is_as_alone(poseidon: dict[str, Any], tmp_path: Path) -> None:
    """It has nobody to sum with: the same bits, and no plan."""
    with Job("equality.py", str(tmp_path), "poseidon", "dense", num_workers=1) as job:
        (worker,) = job.results()
    assert worker["digests"].items() <= poseidon["digests"].items()
    assert len(worker["digests"]) == 2
    assert worker["plan"] == []
