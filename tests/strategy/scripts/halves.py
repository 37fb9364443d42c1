"""Trains a net whose gradients are rounded in every way: `halves.py FOLDER CASE,...`, as a worker.

Rank 0 leaves weights and plans in FOLDER, which `halves_alone.py` takes.
LOCAL_REPLICAS in the environment is the number of replicas of each worker.
"""

import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result
from sklearn.datasets import load_digits

import poseidon_tf
from poseidon_tf.planner import Scheme

BATCH, STEPS, WORDS, CLASSES = 24, 4, 2000, 4
SCHEMES = {"*/*sums*/*": "ps"}
WIRE_DTYPE = {"*": "bfloat16", "*/fp_*": "float16", "*/exact_*": "float32"}
ACCUMULATED = 2


def momentum() -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.9)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "momentum": momentum,
    "eager": momentum,
    "digits": lambda: keras.optimizers.Adam(4e-3),
    "clipped": lambda: keras.optimizers.Adam(1e-3, global_clipnorm=0.1),
    "accumulated": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=ACCUMULATED),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.05), initial_scale=256.0
    ),
}


def dense(units: int, name: str, activation: str | None = "tanh") -> Any:
    return keras.layers.Dense(units, activation=activation, name=name)


def net() -> Any:
    """For each type that travels something for each scheme, and what the planner chooses."""
    return keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(WORDS, 6, name="bf_rows"),
            keras.layers.Flatten(),
            dense(64, "bf_factors"),
            dense(64, "fp_factors"),
            dense(64, "bf_sums"),
            keras.layers.BatchNormalization(momentum=0.5, name="exact_norm"),
            dense(48, "fp_sums"),
            dense(96, "exact_factors"),
            dense(CLASSES, "bf_out", None),
        ],
        name="halves",
    )


def data(rows: int = BATCH * STEPS) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    x = random.integers(0, WORDS, (rows, 8)).astype("int32")
    return x, random.integers(0, CLASSES, rows)


def loss_function() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digest(model: Any) -> str:
    values = b"".join(np.asarray(weight).tobytes() for weight in model.get_weights())
    return hashlib.sha256(values).hexdigest()


class AsWorker:
    """This process is one of several."""

    def __init__(self, folder: Path) -> None:
        num_replicas = int(os.environ.get("LOCAL_REPLICAS", "1"))
        self.folder = folder
        self.strategy = poseidon_tf.PoseidonStrategy(
            schemes=SCHEMES,
            wire_dtype=WIRE_DTYPE,
            devices=logical_cpus(num_replicas) if num_replicas > 1 else None,
            check_numerics=True,
            deadlines=poseidon_tf.Deadlines(start_s=90, step_s=90),
        )
        self.num_planned = 0

    def run(self, case: str) -> None:
        before = self.payload()
        others = (self.changed, self.taped, self.digits, self.skipped, self.overflowing)
        by_name = {other.__name__: other for other in others}
        by_name.get(case, functools.partial(self.fit, case))()
        after = self.payload()
        plan = self.strategy.plan
        assert plan is not None
        plan = dataclasses.replace(plan, variables=plan.variables[self.num_planned :])
        self.num_planned += len(plan.variables)
        result(f"{case}-payload", {scheme: after[scheme] - before[scheme] for scheme in after})
        result(f"{case}-plan", plan.to_json())
        if self.strategy.rank == 0:
            (self.folder / f"{case}.json").write_text(plan.to_json())

    def payload(self) -> dict[str, int]:
        found = dataclasses.asdict(self.strategy.statistics())
        schemes = [str(scheme) for scheme in Scheme]
        return {each: found[each]["sent_bytes"] + found[each]["received_bytes"] for each in schemes}

    def made(self, case: str, make: Callable[[], Any] = net) -> Any:
        keras.utils.set_random_seed(11)
        with self.strategy.scope():
            model = make()
            model.compile(
                OPTIMIZERS[case](),
                loss_function(),
                metrics=["accuracy"],
                steps_per_execution=9 if case == "digits" else 1,
                run_eagerly=case == "eager",
            )
        return model

    def fit(self, case: str) -> None:
        model, (x, y) = self.made(case), data()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        result(f"{case}-digest", digest(model))
        if self.strategy.rank == 0:
            np.savez(self.folder / f"{case}.npz", *model.get_weights())

    def changed(self) -> None:
        """A loop in whose second step no gradient of rank 1 is the product that was agreed on."""
        model, loss_of, (x, y) = self.made("momentum"), loss_function(), data()

        @tf.function
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True)) / self.strategy.num_replicas_in_sync
                if x.shape[0] == 1:
                    loss += sum(tf.reduce_sum(each) for each in model.trainable_variables) * 1e-3
            variables = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, variables), variables)

        for num_rows in (BATCH // 2, 1 if self.strategy.rank == 1 else BATCH // 2):
            share = tf.constant(x[:num_rows]), tf.constant(y[:num_rows])
            tf.function(lambda x, y: self.strategy.run(step, args=(x, y)))(*share)
        result("changed-digest", digest(model))

    def taped(self) -> None:
        """A loop with the project's own tape, traced and then eagerly."""
        digests, (x, y) = [], data()
        for is_traced in (True, False):
            model, loss_of = self.made("momentum"), loss_function()

            def step(x: Any, y: Any, model: Any = model, loss_of: Any = loss_of) -> None:
                with poseidon_tf.GradientTape() as tape:
                    loss = loss_of(y, model(x, training=True))
                    loss = loss / self.strategy.num_replicas_in_sync
                variables = model.trainable_variables
                model.optimizer.apply(tape.gradient(loss, variables), variables)

            def everywhere(x: Any, y: Any, step: Any = step) -> None:
                self.strategy.run(step, args=(x, y))

            run = tf.function(everywhere) if is_traced else everywhere
            for at in range(0, len(x), BATCH):
                rows = slice(at + self.strategy.rank, at + BATCH, self.strategy.num_workers)
                run(tf.constant(x[rows]), tf.constant(y[rows]))
            digests.append(digest(model))
        result("taped-digest", digests)

    def digits(self) -> None:
        """Handwritten digits: how many of those that are held out are read right.

        The last batch has one row, so some worker's share of it is empty.
        """

        def make() -> Any:
            hidden = [dense(128, "bf_factors", "relu"), dense(64, "fp_sums", "relu")]
            return keras.Sequential(
                [keras.Input((64,)), *hidden, dense(10, "exact_out", None)], name="digits"
            )

        model = self.made("digits", make)
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(1).permutation(len(labels))
        x, y = (images[order] / 16).astype("float32"), labels[order]
        model.fit(x[:1441], y[:1441], batch_size=32, epochs=8, verbose=0)
        result("digits-accuracy", model.evaluate(x[1441:], y[1441:], verbose=0)[1])
        result("digits-digest", digest(model))

    def skipped(self) -> None:
        """Rank 0's second share overflows in float16 under a loss scale, and nowhere else."""
        model, (x, y) = self.made("scaled"), data()
        weight = np.ones(len(x), "float32")
        weight[BATCH] = 1e6
        model.fit(x, y, sample_weight=weight, batch_size=BATCH, shuffle=False, verbose=0)
        result("skipped-digest", digest(model))
        result("skipped-steps", int(model.optimizer.inner_optimizer.iterations.numpy()))
        result("skipped-finite", all(bool(np.isfinite(w).all()) for w in model.get_weights()))

    def overflowing(self) -> None:
        """The same without a loss scale ends the job; of rank 1's share."""
        model, (x, y) = self.made("momentum"), data()
        weight = np.ones(len(x), "float32")
        weight[2 * BATCH - 1] = 1e9
        try:
            model.fit(x, y, sample_weight=weight, batch_size=BATCH, shuffle=False, verbose=0)
        except Exception as error:
            result("overflowing-error", str(error))
            raise


def main() -> None:
    worker = AsWorker(Path(sys.argv[1]))
    for case in sys.argv[2].split(","):
        worker.run(case)


if __name__ == "__main__":
    main()
