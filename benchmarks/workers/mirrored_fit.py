"""Obeys `lab.peers`: times `fit` under TensorFlow's MultiWorkerMirroredStrategy.

With the Keras 2 of tf-keras, since that strategy fails with Keras 3. Its options are the defaults.
"""

from __future__ import annotations

import functools
import json
import os
from importlib import metadata
from typing import Any

import tensorflow as tf
import tf_keras
from keras_steps import timed_fit
from nets import NETS, keras_net, random_batch
from protocol import obey

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()
RANK = json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def versions() -> dict[str, str]:
    """What `train` runs on."""
    return {name: metadata.version(name) for name in ("tensorflow", "tf_keras")}


@functools.cache
def model_of(net: str) -> Any:
    """Built once, so that later orders find it traced."""
    with STRATEGY.scope():
        return keras_net(tf_keras, net)


@functools.cache
def dataset_of(net: str, rows: int) -> Any:
    """This worker's one batch again and again: input costs nothing."""
    batch = random_batch(NETS[net], rows=rows, rank=RANK)
    return STRATEGY.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.from_tensors(batch).repeat()
    )


def train(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds of each step."""
    dataset = dataset_of(net, rows)
    return {"seconds": timed_fit(tf_keras, model_of(net), dataset, warm_up=warm_up, steps=steps)}


obey({"versions": versions, "train": train})
