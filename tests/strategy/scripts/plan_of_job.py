"""Saves the nets of the equality tests and trains each for a step. Argument: the folder."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from compact import attention_net, einsum_net, few_words_net, policy, sequence_net, words_net
from equality import NETS
from report import result

import poseidon_tf


def half_precision_net() -> Any:
    with policy("mixed_float16"):
        return attention_net()


NETS |= {
    "sequence": sequence_net,
    "einsum": einsum_net,
    "attention": attention_net,
    "half": half_precision_net,
    "words": words_net,
    "few words": few_words_net,
    "few words of adam": few_words_net,
}
strategy = poseidon_tf.PoseidonStrategy()
for name, build in NETS.items():
    with strategy.scope():
        model = build()
        optimizer = "adam" if "adam" in name else "sgd"
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if strategy.rank == 0:
        model.save(Path(sys.argv[1]) / f"{name}.keras")
    x = np.ones((24, *model.input_shape[1:]), "float32")
    model.fit(x, np.zeros(24), batch_size=24, verbose=0)
assert strategy.plan is not None
result("plan", strategy.plan.to_json())
result("nets", list(NETS))
