"""Files are written once, load anywhere, and bring all workers back to where rank 0 was."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    """The folder with a directory per worker, and what each worker found."""
    folder = tmp_path_factory.mktemp("written")
    with Job("saving.py", str(folder), "write") as job:
        return folder, job.results(timeout_s=240)


@pytest.fixture(scope="module")
def loaded(written: tuple[Path, Findings]) -> dict[str, Any]:
    """What a process without poseidon_tf makes of it."""
    folder, _ = written
    return run_alone("loading.py", str(folder / "rank-0"), str(folder / "shared"), is_fresh=True)


def test_callbacks_that_write_do_so_on_rank_0_only(written: tuple[Path, Findings]) -> None:
    """Also one that is derived from them; what is the user's own runs everywhere."""
    _, (chief, other) = written
    assert chief["written"] == sorted(
        ["1.weights.h5", "2.weights.h5", "backup", "best.keras", "board", "diary.txt"]
        + ["log.csv", "tested"]
    )
    assert other["written"] == ["diary.txt"]


@pytest.mark.tensorflow
def test_tensorboard_shows_the_scores_of_the_whole_job(written: tuple[Path, Findings]) -> None:
    """Those of `history`, by epoch, from one writer; also the model and histograms of weights."""
    folder, (chief, _) = written
    logs = folder / "rank-0" / "board"
    train, validation = (events(logs / kind) for kind in ("train", "validation"))
    assert scalars(train, "epoch_loss") == as_float32(chief["history"]["loss"])
    assert scalars(validation, "epoch_loss") == as_float32(chief["history"]["val_loss"])
    assert len(scalars(train, "batch_loss")) == 6
    tags = train.Tags()["tensors"]
    shown = {tag.split("/")[-2] for tag in tags if tag.endswith("/histogram")}
    assert "keras" in tags and shown >= {"kernel", "bias", "gamma", "moving_mean"}
    tested = events(folder / "rank-0" / "tested" / "validation")
    assert scalars(tested, "evaluation_loss_vs_iterations") == as_float32([chief["tested"]])


def test_the_log_holds_the_scores_of_the_whole_job(written: tuple[Path, Findings]) -> None:
    """A line for each epoch, with the values of `history`, all their digits."""
    folder, (chief, other) = written
    with (folder / "rank-0" / "log.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line.pop("epoch") for line in lines] == ["0", "1"]
    for name, values in chief["history"].items():
        assert [float(line.pop(name)) for line in lines] == values == other["history"][name]
    assert lines == [{}, {}]


def events(folder: Path) -> EventAccumulator:
    """What is in the one event file of a folder."""
    (file,) = folder.glob("events.out.tfevents.*")
    return EventAccumulator(str(file)).Reload()


def scalars(events: EventAccumulator, tag: str) -> list[float]:
    """In the order of their steps."""
    return [float(tensor_util.make_ndarray(each.tensor_proto)) for each in events.Tensors(tag)]


def as_float32(values: list[float]) -> list[float]:
    return [float(np.float32(value)) for value in values]


def test_the_users_callbacks_stay_as_they_are(written: tuple[Path, Findings]) -> None:
    """A list, and a CallbackList, which gets its own callbacks back."""
    _, found = written
    assert all(worker["is-same-list"] for worker in found)
    assert [worker["callback-list"] for worker in found] == [[True, True], [True, False]]


def test_what_a_script_saves_on_all_workers_is_written_by_rank_0(
    written: tuple[Path, Findings],
) -> None:
    """Models, weights, exports and checkpoints, into one directory and into each worker's own."""
    folder, (chief, other) = written
    expected = {"hand.keras", "hand.weights.h5", "exported", "hand.index", "checkpoint"}
    expected |= {"saved-4.index", "managed-5.index", "managed-17.index"}
    assert set(chief["by-hand"]) >= expected and other["by-hand"] == []
    shared = {each.name for each in (folder / "shared").iterdir()}
    assert shared >= expected - {"saved-4.index", "managed-5.index"} | {"saved-1.index"}


def test_checkpoints_have_the_same_names_and_numbers_on_all_workers(
    written: tuple[Path, Findings],
) -> None:
    """Whether they are written or not."""
    for worker in written[1]:
        assert worker["paths"] == [
            *("hand", "saved-1", "managed-2", "managed-17"),
            *("hand", "saved-4", "managed-5", "managed-17"),
        ]
        assert worker["counters"] == [0, 1, 2, 3, 3, 4, 5, 6]


def test_a_worker_that_writes_nothing_says_so_once_for_each_method(
    written: tuple[Path, Findings],
) -> None:
    """And what would make it write."""
    chief, other = (worker["warnings"] for worker in written[1])
    assert chief == []
    assert [warning.split()[0] for warning in other] == [
        *("Model.save", "Model.save_weights", "Model.export"),
        *("Checkpoint.write", "Checkpoint.save", "CheckpointManager.save"),
    ]
    for warning in other:
        assert "writes nothing on rank 1: rank 0 writes for the job" in warning
        assert 'PoseidonStrategy(write_on="all")' in warning


def test_what_was_made_outside_of_the_strategy_is_each_workers_own(
    written: tuple[Path, Findings],
) -> None:
    """It writes as without poseidon_tf."""
    for worker in written[1]:
        assert {"plain.keras", "plain-1.index"} <= set(worker["plain"])


def test_saving_on_all_workers_changes_nothing_in_training(
    written: tuple[Path, Findings],
) -> None:
    """Nobody waits for the one that writes."""
    _, (chief, other) = written
    assert chief["weights"] == other["weights"] and chief["after"] == other["after"]


def test_what_was_written_loads_without_poseidon_tf(
    written: tuple[Path, Findings], loaded: dict[str, Any]
) -> None:
    """Weights bit for bit, the optimizer's steps, and the same predictions."""
    _, (chief, other) = written
    assert chief["weights-of-fit"] == other["weights-of-fit"] != chief["weights"]
    assert loaded["without"]
    assert loaded["weights"] == [chief["weights"]] * 3
    assert loaded["weights-of-best"] == [chief["weights-of-fit"]] * 2
    assert loaded["steps-of-best"] == 6 and loaded["steps"] == [9, 9]
    assert_close(loaded["predicted"][0], chief["predicted"])
    assert_close(loaded["predicted"][1], chief["predicted"])
    assert loaded["trains"]


@pytest.mark.thorough  # By default restarted and elastic jobs prove it.
def test_a_job_goes_on_from_the_backup_of_rank_0(tmp_path: Path) -> None:
    """No shared file system: the others have empty directories, and end with the same bits as in
    a job that nothing disturbed. With `write_on="all"` each writes its own backup and events."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with Job("saving.py", str(whole), "train", environ={"WRITE_ON": "all"}) as job:
        undisturbed = job.results()
    assert [worker["written"] for worker in undisturbed] == [["backup", "board"]] * 2
    with Job("saving.py", str(broken), "train", "2") as job:
        codes = job.wait()
    assert codes[1] == 9 and codes[0] not in (0, 9)
    with Job("saving.py", str(broken), "train") as job:
        resumed = job.results()
    assert [worker["written"] for worker in resumed] == [["backup", "board"], []]
    assert [worker["epochs"] for worker in resumed] == [[2, 3]] * 2
    assert [worker["steps"] for worker in resumed] == [[6, 9]] * 2
    assert {worker["last"] for worker in (*undisturbed, *resumed)} == {undisturbed[0]["last"]}
