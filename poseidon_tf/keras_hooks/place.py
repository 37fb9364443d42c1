"""Where a `fit` is, as a backup remembers it: in the file of the weights, so that both are whole.

Keras remembers the epoch only, in a file of its own that it writes after the weights.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, final

import h5py

from poseidon_tf.strategy import fit_internals

_ATTRIBUTE = "poseidon_tf.place"


@final
@dataclass(frozen=True, slots=True)
class ReadData:
    """What `fit` reads; a place in it is one in other data only if all of this is the same.

    Attributes:
      kind: "tf.data", "arrays", "PyDataset", ...
      policy: how it is shared among the workers, see `DataFacts`; "" where that is not known.
      batches: of all workers in an epoch, if known.
      rows: of a batch of all workers, if known.
      given_rows: the same, as the script has it.
      seeds: a digest of what draws in the pipeline, and with which seeds.
      steps_per_epoch, steps_per_execution: as Keras has them.
      no_place: why no place in it can be found again; "" if it can.
    """

    kind: str
    policy: str = ""
    batches: int | None = None
    rows: int | None = None
    given_rows: int | None = None
    seeds: str = ""
    steps_per_epoch: int | None = None
    steps_per_execution: int = 1
    no_place: str = ""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where `fit` was.

    Attributes:
      epoch: with which to go on, from 0.
      batch: how many batches of all workers are done of it.
      first_epoch: since which the data has been read: it decides on the order that it has now.
      num_workers: among which each batch was divided.
      worker_rows: of the batch that each worker keeps when their number changes, if it does.
      data: what was read.
      graph_seed: what operations without a seed draw in the graphs of this `fit`.
      order_seed: of the order of a PyDataset's batches.
      random_states: of the model's random generators, which Keras does not count among weights.
      is_between_updates: some gradients were added up by each worker and not applied yet.
    """

    epoch: int
    batch: int
    first_epoch: int
    num_workers: int
    data: ReadData
    graph_seed: int = 0
    order_seed: int = 0
    random_states: list[list[int]] = field(default_factory=list)
    is_between_updates: bool = False
    worker_rows: int | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Place:
        """The place; what another version has written beside is left out.

        Raises:
          KeyError, TypeError, ValueError: something is missing, or the text is no place.
        """
        given = json.loads(text)
        data = ReadData(**_known(ReadData, given["data"]))
        return cls(**_known(cls, given) | {"data": data})


def _known(cls: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {each.name: given[each.name] for each in fields(cls) if each.name in given}


def write(path: str, place: Place) -> None:
    """Add `place` to a file of weights that nobody reads yet."""
    with h5py.File(path, "r+") as file:
        file.attrs[_ATTRIBUTE] = place.to_json()


def read(backups: Iterable[Any]) -> Place | None:
    """The place in what the first of these `BackupAndRestore`s that has a backup will restore.

    None if there is no backup, or one without a place, as Keras alone writes it.
    """
    for backup in backups:
        for path in fit_internals.backup_paths(backup):
            # A file that cannot be read: Keras takes the one before it, or raises the error.
            with contextlib.suppress(OSError), h5py.File(path) as file:
                text = file.attrs.get(_ATTRIBUTE)
                return None if text is None else Place.from_json(text)
    return None
