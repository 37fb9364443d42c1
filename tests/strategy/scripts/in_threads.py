"""Trains in a thread that constructs the strategy; rank 1 raises in it, and then all train anew."""

import sys
import threading
from typing import Any

import keras
import numpy as np
from report import result

import poseidon_tf

said: dict[str, Any] = {}


def train(name: str, *, raises: bool) -> None:
    """In a thread of its own, which has no `with` statement and no `shutdown` where it raises."""
    strategy = poseidon_tf.PoseidonStrategy(show_plan="none")
    said["rank"] = strategy.rank
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = np.ones((8, 4), "f")
    try:
        model.fit(x, x[:, :1], batch_size=4, verbose=0)
        if raises and strategy.rank == 1:
            raise ArithmeticError("no more")
        if raises:
            model.fit(x, x[:, :1], batch_size=4, epochs=1000, verbose=0)
        said[name] = strategy.statistics().steps
    except Exception as error:
        said[name] = str(error)
        raise
    strategy.shutdown()


for name, raises in (("raised", True), ("trained", False)):
    thread = threading.Thread(target=train, args=(name,), kwargs={"raises": raises})
    thread.start()
    thread.join()
    hooks = [sys.excepthook is sys.__excepthook__, threading.excepthook is threading.__excepthook__]
    threads = [t.name for t in threading.enumerate() if t.name.startswith("poseidon")]
    result(f"after_{name}", [hooks, threads])
for key, value in said.items():
    result(key, value)
