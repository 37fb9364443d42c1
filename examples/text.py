"""Fine-tunes a transformer on text, on any number of workers.

    poseidon-tf run --workers 2 examples/text.py
    python examples/text.py                                # one worker, no server

The text is Python's own documentation, which `help()` shows, so nothing is downloaded. First a
small transformer learns to guess the next word; then its layers are fine-tuned to tell from which
topic a passage is. In the plans that rank 0 prints, the gradient of the embedding travels as rows.
All others go through the servers: a worker's batch has 768 words, more than these layers are wide,
so factors would be larger.
"""

import re
import sys
from collections import Counter
from pydoc_data.topics import topics

import keras
import numpy as np

import poseidon_tf

NUM_TOPICS = 6  # The longest ones.
NUM_WORDS = 1000  # The most frequent ones; 0 stands for all others.
LENGTH = 24  # Words of a passage.
WIDTH = 64
GLOBAL_BATCH = 64  # Over all workers.
GOOD_ENOUGH = 0.5  # Who always names the longest topic is right in 0.3 of the cases.

keras.utils.set_random_seed(1)  # The same numbers in every run.
longest = sorted(topics, key=lambda name: (-len(topics[name]), name))[:NUM_TOPICS]
texts = [re.findall(r"[a-z_]+|[^\sa-z_]", topics[name].lower()) for name in longest]
counts = Counter(word for text in texts for word in text)
number = {word: at for at, (word, _) in enumerate(counts.most_common(NUM_WORDS - 1), start=1)}
passages, labels = [], []
for label, text in enumerate(texts):
    for at in range(0, len(text) - LENGTH, LENGTH):
        passages.append([number.get(word, 0) for word in text[at : at + LENGTH + 1]])
        labels.append(label)
order = np.random.permutation(len(labels))
x, y = np.array(passages, "int32")[order], np.array(labels)[order]
held_out = len(y) // 5
x, y, x_held_out, y_held_out = x[held_out:], y[held_out:], x[:held_out], y[:held_out]

strategy = poseidon_tf.PoseidonStrategy()

with strategy.scope():
    words = keras.Input((LENGTH,), dtype="int32")
    table = keras.layers.Embedding(NUM_WORDS, WIDTH, name="words")(words)
    attention = keras.layers.MultiHeadAttention(4, WIDTH // 4, name="attention")
    seen = keras.layers.LayerNormalization()(table + attention(table, table, use_causal_mask=True))
    wide = keras.layers.Dense(4 * WIDTH, activation="relu", name="wide")(seen)
    narrow = keras.layers.Dense(WIDTH, name="narrow")(wide)
    features = keras.layers.LayerNormalization()(seen + narrow)

    guesses = keras.layers.Dense(NUM_WORDS, name="next_word")(features)
    language_model = keras.Model(words, guesses, name="language_model")
    language_model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )

    pooled = keras.layers.GlobalAveragePooling1D()(features)
    classifier = keras.Model(words, keras.layers.Dense(NUM_TOPICS, name="topic")(pooled))
    classifier.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

losses = language_model.fit(
    x[:, :LENGTH], x[:, 1:], batch_size=GLOBAL_BATCH, epochs=2, verbose=0
).history["loss"]
print(f"loss of the next word: {losses[0]:.4f}, then {losses[-1]:.4f}")
classifier.fit(x[:, :LENGTH], y, batch_size=GLOBAL_BATCH, epochs=5, verbose=0)
_, accuracy = classifier.evaluate(x_held_out[:, :LENGTH], y_held_out, verbose=0)

# Counted over the held-out passages of all workers, so every worker prints the same.
print(f"accuracy on {len(y_held_out)} held-out passages: {accuracy:.4f}")
if accuracy < GOOD_ENOUGH:
    sys.exit(f"expected at least {GOOD_ENOUGH}")
