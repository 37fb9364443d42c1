"""Obeys `lab.peers`: times `fit` of the benchmarks' nets under PoseidonStrategy.

Argument: the strategy's options, as JSON.

Alone, where TF_CONFIG names no others, it also times the way to the first gradient.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from importlib import metadata
from typing import Any

import keras
import tensorflow as tf
from keras_steps import timed_fit
from nets import NETS, keras_net, random_batch
from protocol import obey

import poseidon_tf

STRATEGY = poseidon_tf.PoseidonStrategy(**json.loads(sys.argv[1]))


def versions() -> dict[str, str]:
    """What `train` runs on."""
    return {name: metadata.version(name) for name in ("tensorflow", "keras", "grpcio")}


@functools.cache
def model_of(net: str) -> Any:
    """Built once, so that later orders find it traced."""
    with STRATEGY.scope():
        return keras_net(keras, net)


@functools.cache
def dataset_of(net: str, rows: int) -> Any:
    """This worker's one batch again and again: input costs nothing."""
    batch = random_batch(NETS[net], rows=rows, rank=STRATEGY.rank)
    return STRATEGY.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.from_tensors(batch).repeat()
    )


def train(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds of each step, and the bytes in and out of a node that the plan expects of one."""
    model = model_of(net)
    seconds = timed_fit(keras, model, dataset_of(net, rows), warm_up=warm_up, steps=steps)
    names = {variable.path for variable in model.trainable_variables}
    plan = STRATEGY.plan.variables if STRATEGY.plan else ()
    planned = [variable for variable in plan if variable.name in names]
    return {"seconds": seconds, "node_bytes": sum(each.node_bytes for each in planned)}


def first_gradient(net: str, rows: int, warm_up: int, steps: int) -> dict[str, float]:
    """Median seconds from the input to the gradient of the last kernel, the first to be sent."""
    model = model_of(net)
    inputs, labels = (tf.constant(value) for value in random_batch(NETS[net], rows=rows, rank=0))
    kernel = model.layers[-1].kernel

    @tf.function
    def run() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True))
        return tape.gradient(loss, kernel.value)

    seconds = []
    for _ in range(warm_up + steps):
        begin_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin_s)
    return {"seconds": statistics.median(seconds[warm_up:])}


obey({"versions": versions, "train": train, "first_gradient": first_gradient})
