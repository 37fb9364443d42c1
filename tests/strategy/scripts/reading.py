"""Rank 0 saves the same files again and again while rank 1 loads them. Argument: a folder."""

import sys
import time
from pathlib import Path

import keras
import numpy as np
from report import result

import poseidon_tf

folder = Path(sys.argv[1])
weights_path, model_path = folder / "m.weights.h5", folder / "model.keras"
done_path = folder / "done"
strategy = poseidon_tf.PoseidonStrategy()
with strategy.scope():
    layers = [keras.layers.Dense(256) for _ in range(12)]
    model = keras.Sequential([keras.Input((256,)), *layers])
if strategy.rank == 0:
    model.save_weights(weights_path)
    model.save(model_path)
strategy.barrier("first files")
if strategy.rank == 0:
    for _ in range(20):
        model.save_weights(weights_path)
        model.save(model_path)
    done_path.touch()
    result("saves", 20)
else:
    num_loads, errors = 0, []
    other = keras.Sequential([keras.Input((256,)), *[keras.layers.Dense(256) for _ in layers]])
    until_s = time.monotonic() + 60.0
    while not done_path.exists() and time.monotonic() < until_s:
        try:
            other.load_weights(weights_path)
            keras.models.load_model(model_path)
        except Exception as error:
            errors.append(repr(error))
        num_loads += 1
    result("loads", num_loads)
    result("errors", errors[:3])
strategy.barrier("last files")
if strategy.rank == 0:
    done_path.unlink()
    assert np.isfinite(model.get_weights()[0]).all()
