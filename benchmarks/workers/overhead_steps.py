"""Times steps, and measures memory, under one of several strategies.

Argument: "cluster" for PoseidonStrategy as TF_CONFIG has it, "alone" for PoseidonStrategy
without it, "one_device" for TensorFlow's own, "none" for no strategy.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

if sys.argv[1] != "cluster":
    os.environ.pop("TF_CONFIG", None)

import keras
import tensorflow as tf
from keras_steps import timed_fit
from overhead_models import chain, mlp, random_batch
from protocol import obey

import poseidon_tf
from poseidon_tf.session.periodic import PERIOD_S
from poseidon_tf.session.step_times import StepTimes
from poseidon_tf.trace import Recorder


def strategy_of(name: str) -> Any:
    """The strategy that the argument names; None for none."""
    if name == "none":
        return None
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    # All by parameter server: it is the larger overhead.
    return poseidon_tf.PoseidonStrategy(schemes={"*": "ps"})


STRATEGY = strategy_of(sys.argv[1])
model: Any = None
dataset: Any = None


def build(net: str, units: Sequence[int], variables: int, rows: int) -> dict[str, int]:
    """Make the net, and a dataset of `rows` rows per worker; say how much there is to train."""
    global model, dataset
    with STRATEGY.scope() if STRATEGY else contextlib.nullcontext():
        model = mlp(units) if net == "mlp" else chain(variables)
    batch = random_batch(model, rows * getattr(STRATEGY, "num_workers", 1))
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    weights = model.trainable_variables
    return {
        "variables": len(weights),
        "bytes": sum(4 * weight.shape.num_elements() for weight in weights),
    }


def time_steps(warm_up: int, steps: int) -> list[float]:
    """Seconds of each step."""
    return timed_fit(keras, model, dataset, warm_up=warm_up, steps=steps)


def seeing(repeats: int) -> dict[str, float]:
    """Seconds of a step, and what of them goes into measuring and recording it."""
    told = STRATEGY.statistics()
    exchanges = round((told.ps.exchanges + told.sfb.exchanges) / told.steps)
    times, recorder, lock = StepTimes(), Recorder("benchmark", directory=None), threading.Lock()
    began_s = time.perf_counter()
    for step in range(repeats):
        for exchange in range(exchanges):
            recorder.event("gradient ready", "fc/kernel", step)
            with lock:
                times.begin(exchange, time.monotonic())
            recorder.event("sent", "fc/kernel", step, server=0)
            recorder.event("received", "fc/kernel", step)
            with lock:
                times.end(time.monotonic())
    measured_s = (time.perf_counter() - began_s) / repeats
    began_s = time.perf_counter()
    for _ in range(repeats):
        STRATEGY.statistics()  # All that a report takes, but for the bytes of a message.
    told_s = (time.perf_counter() - began_s) / repeats
    step_s = told.step_times.step_s
    return {
        "exchanges": exchanges,
        "step_s": step_s,
        "seeing_s": measured_s + told_s * step_s / PERIOD_S,
    }


def sample_memory(steps: int, every: int) -> list[dict[str, Any]]:
    """Memory after every `every` of `steps` steps, trained in one go."""
    from memory_samples import MemorySamples  # It needs psutil; timing steps does not.

    samples = MemorySamples(every)
    model.fit(dataset, steps_per_epoch=steps, epochs=1, callbacks=[samples], verbose=0)
    return samples.samples


obey(
    {
        "build": build,
        "time_steps": time_steps,
        "seeing": seeing,
        "sample_memory": sample_memory,
    }
)
