"""Trains by a plan by time, or by plans of files: `replanned.py UPDATES FOLDER [PLAN...]`.

An epoch by each plan of a file, with a strategy for each; weights go on in FOLDER. Without files
three epochs and another one, of which rank 0 takes links for slow from the second on, and FOLDER is
for timelines. UPDATES: "in-step", "across" or "across-16-bits"; or "two-models", which have the
same layers and optimizer, and of which one is traced before the plan of both is made anew; or
"killed", where rank 1 is while links are measured again.
"""

import gc
import hashlib
import logging
import math
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
from report import result
from three_kernels import three_kernels

import poseidon_tf
from poseidon_tf.keras_hooks import why_in_step
from poseidon_tf.planner import Link, Machines, Measured
from poseidon_tf.session.probe import Probe
from poseidon_tf.strategy.gradients import replanning
from poseidon_tf.strategy.runtime import Runtime

DEFERS = sys.argv[1] != "in-step"
PLANS = sys.argv[3:]
WIRE_DTYPE: Any = "bfloat16" if "16-bits" in sys.argv[1] else None
STEPS, BATCH = 4, 8

logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
why_in_step.LEAST_BYTES = 0
replanning.MOST_TIME = math.inf
rng = np.random.default_rng(0)
x = rng.normal(size=(STEPS * BATCH, 256)).astype("f")
y = rng.normal(size=(STEPS * BATCH, 2)).astype("f")


def net() -> Any:
    model = three_kernels()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def sent(strategy: Any) -> list[int]:
    statistics = strategy.statistics()
    return [statistics.ps.sent_bytes, statistics.sfb.sent_bytes]


def digest(model: Any) -> str:
    values = [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]
    return hashlib.sha256(b"".join(np.asarray(each).tobytes() for each in values)).hexdigest()


class Looks(keras.callbacks.Callback):
    """At the end of each epoch: by which plan it was, what it has sent, what came out."""

    def __init__(self, strategy: Any, runtime: Runtime) -> None:
        super().__init__()
        self._strategy, self._runtime = strategy, runtime
        self.found: list[dict[str, Any]] = []
        self._before = [0, 0]
        self.traced: Any = None  # In the first epoch.

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = sent(self._strategy)
        self.found.append(
            {
                "plan": self._strategy.plan.to_json(),
                "sent": [b - a for a, b in zip(self._before, now, strict=True)],
                "digest": digest(self.model),
                "last_step": self._runtime.worker.last_step(),
                "steps": self._strategy.statistics().steps,
                "loss": logs["loss"],
            }
        )
        self._before = now
        if self.traced is None:
            stop = self.model.train_function.__self__
            self.traced = weakref.ref(stop._train_function)
        if epoch == 0 and self._runtime.worker.rank == 0:
            believe(1e5)  # Only here.


def believe(bits_per_s: float) -> None:
    """In place of what is measured, here: links like these, and a device that multiplies slowly."""
    found = Machines(link=Link(bits_per_s=bits_per_s, latency_s=1e-4), flops_per_s=1e5)
    Measured.machines = lambda self, **options: found  # type: ignore[method-assign]


class Times:
    """How long each look at the plan has taken."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        original = replanning.Replanning.between_epochs

        def timed(this: Any, variables: Any) -> bool:
            begun_s = time.monotonic()
            try:
                return original(this, variables)
            finally:
                self.took_s.append(time.monotonic() - begun_s)

        replanning.Replanning.between_epochs = timed  # type: ignore[assignment,method-assign]


def fit(model: Any, rows: int = STEPS * BATCH, **options: Any) -> None:
    model.fit(x[:rows], y[:rows], batch_size=BATCH, shuffle=False, verbose=0, **options)


if not PLANS:
    believe(1e9)
    times = Times()
    strategy = poseidon_tf.PoseidonStrategy(
        plan_by="time",
        step_seconds=1e-3,
        defer_updates=DEFERS,
        wire_dtype=WIRE_DTYPE,
        timeline_dir=sys.argv[2],
    )
    with strategy.scope():
        model = net()
    runtime = strategy._runtime
    assert runtime is not None
    looks = Looks(strategy, runtime)
    if sys.argv[1] == "two-models":
        with strategy.scope():
            other = keras.Sequential(model.layers)
            other.compile(model.optimizer, "mse")
        fit(other, BATCH)  # One step, whose update is made alone.
        fit(model, epochs=2, callbacks=[looks])
        fit(other)
        result("digest", digest(model))
        result("plans", [epoch["plan"] for epoch in looks.found])
        sys.exit()
    if sys.argv[1] == "killed" and strategy.rank == 1:
        Probe.measure = lambda self, **options: os._exit(9)  # type: ignore[method-assign]
    fit(model, epochs=3, callbacks=[looks])
    fit(model, callbacks=[looks])  # It goes on by the same plan.
    result("epochs", looks.found)
    result("took_s", times.took_s)
    result("deferred", strategy.statistics().updates.deferred)
    gc.collect()
    result("is_traced_before", looks.traced() is not None)
    routes = [each.route for each in runtime.worker._routes if each.purpose == "ps"]
    syncers: list[Any] = [each.syncer for each in routes]
    free = [len(each._totals._free) for each in syncers]
    result("buffers", [[each.first_step, n] for each, n in zip(routes, free, strict=True)])
else:
    folder = Path(sys.argv[2])
    found = []
    for number, file in enumerate(PLANS):
        strategy = poseidon_tf.PoseidonStrategy(plan=file, defer_updates=DEFERS)
        with strategy.scope():
            model = net()
            before = folder / f"epoch-{number - 1}.weights.h5"
            if number:
                model.optimizer.build(model.trainable_variables)
                model.load_weights(before)
        fit(model)
        found.append({"sent": sent(strategy), "digest": digest(model)})
        after = folder / f"epoch-{number}.weights.h5"
        model.save_weights(after)
        strategy.barrier("saved")
        strategy.shutdown()
    result("epochs", found)
