"""Runs a listing of docs/migration.md as it stands there, with one seed for all.

Argument: the heading over the listing.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

import poseidon_tf

PAGE = Path(__file__).parents[3] / "docs" / "migration.md"


def listing(heading: str) -> str:
    """The first Python listing under a heading of the page."""
    found = re.search(rf"^#+ {heading}$.*?^```python$(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found is not None, heading
    return found[1]


def main() -> None:
    heading = sys.argv[1]
    if heading == "MirroredStrategy":
        logical_cpus(2)
    folder = Path(tempfile.mkdtemp())
    names: dict[str, Any] = {
        "keras": keras,
        "np": np,
        "poseidon_tf": poseidon_tf,
        "tf": tf,
        "tempfile": tempfile,
        "Path": Path,
        "best": folder / "best.weights.h5",
    }
    keras.utils.set_random_seed(5)
    exec(listing("Coming from MirroredStrategy or Horovod"), names)
    exec(listing(heading), names)
    model = names["model"]
    result("replicas", names["strategy"].num_replicas_in_sync)
    result("history", {name: list(map(float, v)) for name, v in names["history"].history.items()})
    result("weights", [weight.tolist() for weight in model.get_weights()])
    result("steps", int(model.optimizer.iterations.numpy()))
    saved = names["best"].exists()
    result("saved", saved)
    if saved:
        model.load_weights(names["best"])
        result("loaded", [weight.tolist() for weight in model.get_weights()])


if __name__ == "__main__":
    main()
