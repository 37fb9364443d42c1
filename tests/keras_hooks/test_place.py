"""Where a `fit` was, as a backup's file of weights remembers it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import keras
import pytest

from poseidon_tf.keras_hooks import place
from poseidon_tf.keras_hooks.place import Place, ReadData
from poseidon_tf.keras_hooks.whole_files import adding, save_whole

pytestmark = pytest.mark.tensorflow
PLACE = Place(3, 17, 1, 2, ReadData("arrays", batches=20), order_seed=2**62, random_states=[[1, 2]])


def backup(folder: Path) -> keras.callbacks.BackupAndRestore:
    return keras.callbacks.BackupAndRestore(str(folder))


def save(folder: Path, there: Place | None) -> None:
    def save_weights(path: str) -> None:
        with h5py.File(path, "w") as file:
            file["weights"] = [1.0]

    if there is None:
        save_whole(save_weights, folder / "latest.weights.h5", part="rank-0")
        return
    with adding(lambda path: place.write(path, there)):
        save_whole(save_weights, folder / "latest.weights.h5", part="rank-0")


def test_a_place_is_in_the_file_of_the_weights(tmp_path: Path) -> None:
    """From the moment at which that appears; the weights are what they were."""
    save(tmp_path, PLACE)
    assert place.read([backup(tmp_path / "other"), backup(tmp_path)]) == PLACE
    with h5py.File(tmp_path / "latest.weights.h5") as file:
        assert list(file) == ["weights"] and file["weights"][0] == 1.0


def test_a_backup_without_a_place_has_none(tmp_path: Path) -> None:
    """Such as Keras alone writes, or none at all."""
    assert place.read([backup(tmp_path)]) is None and place.read([]) is None
    save(tmp_path, None)
    assert place.read([backup(tmp_path)]) is None


def test_of_a_broken_file_the_one_before_counts(tmp_path: Path) -> None:
    """As for Keras with `double_checkpoint`."""
    save(tmp_path, PLACE)
    (tmp_path / "latest.weights.h5").rename(tmp_path / "latest.weights.h5.bkp")
    (tmp_path / "latest.weights.h5").write_bytes(b"broken")
    assert place.read([backup(tmp_path)]) == PLACE


def test_what_another_version_has_added_is_left_out(tmp_path: Path) -> None:
    """What one lacks that has no default is an error."""
    fields = json.loads(PLACE.to_json())
    more = fields | {"later": 1, "data": fields["data"] | {"later": 2}}
    assert Place.from_json(json.dumps(more)) == PLACE
    for broken in ("[]", "{}", json.dumps({**fields, "data": {}}), "no JSON"):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Place.from_json(broken)
