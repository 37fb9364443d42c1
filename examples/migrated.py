"""The script of docs/migration.md: what it became, coming from MirroredStrategy or Horovod.

    poseidon-tf run --workers 2 --servers 2 examples/migrated.py
    python examples/migrated.py                                  # one worker, no server

A small classifier learns which of four directions a vector points to. The data are made here, the
same on every worker.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import poseidon_tf

BATCH_PER_WORKER = 32

random = np.random.default_rng(seed=3)
x = random.normal(size=(1024, 16)).astype("float32")
y = np.argmax(x @ random.normal(size=(16, 4)), axis=1)

strategy = poseidon_tf.PoseidonStrategy()
global_batch = BATCH_PER_WORKER * strategy.num_replicas_in_sync

with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(4, name="out"),
        ],
        name="migrated",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3 * strategy.num_replicas_in_sync),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

best = Path(tempfile.mkdtemp()) / "best.weights.h5"
callbacks = [
    keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=2),
    keras.callbacks.ModelCheckpoint(best, monitor="loss", save_weights_only=True),
]
history = model.fit(x, y, batch_size=global_batch, epochs=8, callbacks=callbacks, verbose=0)
accuracy = history.history["accuracy"][-1]

# Counted over the samples of all workers, so every worker prints the same.
print(f"accuracy of the last epoch: {accuracy:.4f}")
if best.exists():  # On rank 0: callbacks that write do so there alone.
    print(f"{best.name} has {best.stat().st_size} bytes")
if accuracy < 0.85:
    sys.exit("expected at least 0.85")
