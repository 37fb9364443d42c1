"""Obeys `bench_foresight`: trains under PoseidonStrategy, and measures what the model asks for.

Argument: the strategy's options, as JSON.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras_steps import timed_fit
from nets import NETS, keras_net, random_batch
from protocol import obey

import poseidon_tf

STRATEGY = poseidon_tf.PoseidonStrategy(**json.loads(sys.argv[1]))


@functools.cache
def model_of(net: str) -> Any:
    """Built once, so that later orders find it traced."""
    with STRATEGY.scope():
        return keras_net(keras, net)


@functools.cache
def lonely_model_of(net: str) -> Any:
    """The same outside of the strategy: it knows of nobody else."""
    return keras_net(keras, net)


@functools.cache
def dataset_of(net: str, rows: int) -> Any:
    """This worker's one batch again and again: input costs nothing."""
    batch = random_batch(NETS[net], rows=rows, rank=STRATEGY.rank)
    return STRATEGY.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.from_tensors(batch).repeat()
    )


def train(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds of each step; the plan, and which of its variables are this net's."""
    model = model_of(net)
    seconds = timed_fit(keras, model, dataset_of(net, rows), warm_up=warm_up, steps=steps)
    assert STRATEGY.plan is not None
    names = [variable.path for variable in model.trainable_variables]
    return {"seconds": seconds, "plan": STRATEGY.plan.to_json(), "names": names}


def alone(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds of each step without any exchange. The others do the same at the same time."""
    batch = random_batch(NETS[net], rows=rows, rank=STRATEGY.rank)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    seconds = timed_fit(keras, lonely_model_of(net), dataset, warm_up=warm_up, steps=steps)
    return {"seconds": seconds}


def gradients(net: str, rows: int, steps: int) -> dict[str, float]:
    """By variable: seconds from the beginning of a step until its gradient exists.

    Each is what a function takes that computes it, which is all that is above it.
    """
    model = lonely_model_of(net)
    inputs, labels = (
        tf.constant(value) for value in random_batch(NETS[net], rows=rows, rank=STRATEGY.rank)
    )

    def until(position: int) -> float:
        variables = [variable.value for variable in model.trainable_variables[position:]]

        @tf.function
        def run() -> Any:
            with tf.GradientTape() as tape:
                loss = model.loss(labels, model(inputs, training=True))
            return tape.gradient(loss, variables)

        return _median_s(run, steps)

    # A bias exists with its kernel, or before: one function for both.
    found: dict[str, float] = {}
    last_s = 0.0
    for position in reversed(range(len(model.trainable_variables))):
        name = model.trainable_variables[position].path
        if name.endswith("/kernel"):
            last_s = max(last_s, until(position))
        found[name] = last_s
    for name in [name for name in found if name.endswith("/bias")]:
        found[name] = found[f"{name.removesuffix('bias')}kernel"]
    # By the names of the net that is trained.
    names = [variable.path for variable in model_of(net).trainable_variables]
    return {
        mine: found[variable.path]
        for mine, variable in zip(names, model.trainable_variables, strict=True)
    }


def speeds(rows: int, steps: int) -> dict[str, float]:
    """FLOP/s of a product of factors, and seconds to add a byte to a sum."""
    left, right = tf.random.normal((1024, rows)), tf.random.normal((rows, 4096))
    multiply = tf.function(lambda: tf.matmul(left, right))
    total, one = np.zeros(1 << 20, np.float32), np.ones(1 << 20, np.float32)
    return {
        "flops_per_s": 2 * 1024 * rows * 4096 / _median_s(multiply, steps),
        "sum_byte_s": _median_s(lambda: np.add(total, one, out=total), steps) / total.nbytes,
    }


def _median_s(run: Any, steps: int) -> float:
    run()
    seconds = []
    for _ in range(steps):
        begin_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)


obey({"train": train, "alone": alone, "gradients": gradients, "speeds": speeds})
