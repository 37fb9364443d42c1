"""Runs a listing of a page on migration as it stands there, with one seed for all.

Arguments: the page, and the heading over the listing. The data are those of the first page.
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

DOCS = Path(__file__).parents[3] / "docs"
FIRST = "migration.md"


def listing(page: str, heading: str) -> str:
    """The first Python listing under a heading of a page."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^#+ {heading}$.*?^```python$(.*?)^```$", text, re.M | re.S)
    assert found is not None, (page, heading)
    return found[1]


def main() -> None:
    page, heading = sys.argv[1:]
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
    exec(listing(FIRST, "Coming from MirroredStrategy or Horovod"), names)
    exec(listing(page, heading), names)
    model = names["model"]
    result("replicas", names["strategy"].num_replicas_in_sync)
    if "history" in names:
        history = names["history"].history
        result("history", {name: list(map(float, values)) for name, values in history.items()})
    right = np.argmax(model(names["x"]).numpy(), axis=1) == names["y"]
    result("right", float(right.mean()))
    result("weights", [weight.tolist() for weight in model.get_weights()])
    optimizer = names.get("optimizer") or model.optimizer
    result("steps", int(optimizer.iterations.numpy()))
    saved = names["best"].exists()
    result("saved", saved)
    if saved and page == FIRST:
        model.load_weights(names["best"])
        result("loaded", [weight.tolist() for weight in model.get_weights()])


if __name__ == "__main__":
    main()
