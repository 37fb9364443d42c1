"""Learns to read handwritten digits with `model.fit`, on any number of workers.

    poseidon-tf run --workers 2 --servers 2 examples/digits.py

The 1,797 digits come with scikit-learn, so nothing is downloaded. With two workers the first
dense layer travels as sufficient factors and everything else through the parameter servers; the
plan that rank 0 prints says why.
"""

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

import poseidon_tf

GLOBAL_BATCH = 32  # Over all workers: each of two gets 16 of them.
NUM_BATCHES = 45  # 1,440 digits to learn from; the other 357 are held out.
EPOCHS = 6
GOOD_ENOUGH = 0.95

keras.utils.set_random_seed(1)  # The same numbers in every run.
digits = load_digits()
order = np.random.permutation(len(digits.target))
images = (digits.images[order] / 16.0).astype("float32")[..., None]  # 8 x 8 pixels, one channel.
labels = digits.target[order]
train, held_out = slice(None, NUM_BATCHES * GLOBAL_BATCH), slice(NUM_BATCHES * GLOBAL_BATCH, None)

strategy = poseidon_tf.PoseidonStrategy()

with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu", name="fc1"),
            keras.layers.Dense(10, name="fc2"),
        ],
        name="digits",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(4e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

# One worker speaks for all.
verbose = 2 if strategy.rank == 0 else 0
model.fit(images[train], labels[train], batch_size=GLOBAL_BATCH, epochs=EPOCHS, verbose=verbose)
_, accuracy = model.evaluate(images[held_out], labels[held_out], verbose=0)

# Counted over the held-out digits of all workers, so every worker prints the same.
print(f"accuracy on {len(labels[held_out])} held-out digits: {accuracy:.4f}")
if accuracy < GOOD_ENOUGH:
    sys.exit(f"expected at least {GOOD_ENOUGH}")
