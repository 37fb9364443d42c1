"""Takes the way from a process that has imported everything to the end of its first step.

Argument: "cluster" for the workers of TF_CONFIG, "alone" for none but this one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

if sys.argv[1] == "alone":
    os.environ.pop("TF_CONFIG", None)

import keras
import psutil
import tensorflow as tf
from overhead_models import mlp, random_batch
from protocol import obey

import poseidon_tf


def now() -> tuple[float, float]:
    """The machine's clock, and the CPU seconds of this process and of the server it started."""
    own = psutil.Process()
    return time.monotonic(), sum(cpu_s(process) for process in (own, *own.children()))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Marks(keras.callbacks.Callback):
    """When training began, after the workers have agreed on first values, and its first end."""

    def __init__(self, marks: dict[str, tuple[float, float]]) -> None:
        super().__init__()
        self._marks = marks

    def on_train_begin(self, logs: Any = None) -> None:
        self._marks["first values"] = now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._marks["plan and first step"] = now()


def ready() -> None:
    """Everything is imported."""


def begin(units: Sequence[int], rows: int) -> dict[str, tuple[float, float]]:
    """When each part of the way ended, in order, as `now` has it; "begin" comes first."""
    marks = {"begin": now()}
    strategy = poseidon_tf.PoseidonStrategy()
    marks["PoseidonStrategy()"] = now()
    with strategy.scope():
        model = mlp(units)
    batch = random_batch(model, rows * strategy.num_workers)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    marks["model"] = now()
    model.fit(dataset, steps_per_epoch=1, epochs=1, callbacks=[Marks(marks)], verbose=0)
    return marks


obey({"ready": ready, "begin": begin})
