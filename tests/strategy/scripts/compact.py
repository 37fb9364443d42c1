"""Trains nets whose gradients travel in a compact form, alone or as one of several workers.

Arguments: folder for the weights; "plain", or as a worker "compact"; rows of a batch; how many
replicas a worker has.
"""

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from devices import logical_cpus
from report import result

from poseidon_tf import PoseidonStrategy

STEPS, TOKENS, WIDTH, CLASSES = 3, 6, 32, 4
layers = keras.layers


def sequential(name: str, inputs: Any, *stack: Any) -> Any:
    return keras.Sequential([inputs, *stack, layers.Dense(CLASSES, name="last")], name=name)


def sequence_net() -> Any:
    """Dense on sequences: K is batch x tokens."""
    dense = layers.Dense(64, activation="tanh", name="compact")
    return sequential("sequence", keras.Input((TOKENS, WIDTH)), dense, layers.Flatten())


def einsum_net() -> Any:
    """Kernels of rank 3, transposed, and summed over another dimension than the last."""
    return sequential(
        "einsum",
        keras.Input((TOKENS, WIDTH)),
        layers.EinsumDense("abc,cde->abde", (TOKENS, 2, 32), bias_axes="de", name="compact_1"),
        layers.Reshape((64, TOKENS)),
        layers.EinsumDense("abc,bd->adc", (48, TOKENS), name="compact_2"),
        layers.Reshape((TOKENS, 48)),
        layers.EinsumDense("abc,dc->abd", (TOKENS, 40), bias_axes="d", name="compact_3"),
        layers.Flatten(),
    )


def attention_net() -> Any:
    inputs = keras.Input((TOKENS, WIDTH))
    hidden = layers.MultiHeadAttention(4, 16, name="compact_1")(inputs, inputs)
    hidden = layers.LayerNormalization()(inputs + hidden)
    hidden = layers.GroupQueryAttention(16, 4, 2, name="compact_2")(hidden, hidden)
    hidden = layers.Dense(CLASSES, name="last")(layers.Flatten()(hidden))
    return keras.Model(inputs, hidden, name="attention")


def words_net(num_words: int = 60) -> Any:
    """Two lookups of one table; ids come again within a batch and in the other worker's."""
    table = layers.Embedding(num_words, WIDTH, name="compact")
    inputs = keras.Input((TOKENS,), dtype="int32")
    hidden = layers.Concatenate()([layers.Flatten()(table(inputs)), table(inputs[:, 0])])
    hidden = layers.Dense(24, activation="tanh", name="hidden")(hidden)
    return keras.Model(inputs, layers.Dense(CLASSES, name="last")(hidden), name="words")


def few_words_net() -> Any:
    """A table that is smaller than the rows of a step."""
    return words_net(12)


def dense_net() -> Any:
    """A kernel whose factors pay, and variables without factors, all in the same precision."""
    dense = layers.Dense(64, activation="relu", name="compact")
    return sequential("dense", keras.Input((48,)), dense, layers.LayerNormalization(name="norm"))


@contextlib.contextmanager
def policy(name: str) -> Any:
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


@dataclasses.dataclass(frozen=True)
class Case:
    build: Callable[[], Any]
    optimizer: Callable[[], Any]
    policy: str = "float32"
    eager: bool = False


def momentum() -> Any:
    return keras.optimizers.SGD(0.05, momentum=0.9)


optimizers = keras.optimizers
CASES = {
    "sequence": Case(sequence_net, momentum),
    "einsum": Case(einsum_net, momentum),
    "attention": Case(attention_net, momentum),
    "rows sgd": Case(words_net, lambda: optimizers.SGD(0.1)),
    "rows momentum": Case(words_net, momentum),
    "rows adam": Case(words_net, lambda: optimizers.Adam(1e-2)),
    "rows adagrad": Case(words_net, lambda: optimizers.Adagrad(1e-2)),
    "rows clipnorm": Case(words_net, lambda: optimizers.SGD(0.1, clipnorm=0.05)),
    "few words sgd": Case(few_words_net, lambda: optimizers.SGD(0.1)),
    "few words momentum": Case(few_words_net, momentum),
    "few words lion": Case(few_words_net, lambda: optimizers.Lion(1e-3)),
    "few words adam": Case(few_words_net, lambda: optimizers.Adam(1e-2)),
    "few words clipnorm": Case(few_words_net, lambda: optimizers.SGD(0.1, clipnorm=0.05)),
    "eager words": Case(words_net, lambda: optimizers.Adam(1e-2), eager=True),
    "mixed_float16": Case(dense_net, momentum, "mixed_float16"),
    "mixed_bfloat16": Case(dense_net, momentum, "mixed_bfloat16"),
    "mixed_float16 words": Case(words_net, momentum, "mixed_float16"),
    "mixed_float16 attention": Case(attention_net, momentum, "mixed_float16"),
    "float16": Case(dense_net, momentum, "float16"),
    "bfloat16": Case(dense_net, momentum, "bfloat16"),
    "float64": Case(dense_net, momentum, "float64"),
}


def train(name: str, scope: Any, strategy: Any, batch_size: int) -> dict[str, Any]:
    """The weights before and after three steps, and what they moved."""
    case = CASES[name]
    keras.utils.set_random_seed(11)
    known = len(strategy.plan.variables) if strategy and strategy.plan else 0
    before = strategy.statistics() if strategy else None
    with policy(case.policy), scope():
        model = case.build()
        model.compile(
            optimizer=case.optimizer(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            run_eagerly=case.eager,
        )
        if strategy is None:  # Else a step is traced twice.
            model.optimizer.build(model.trainable_variables)
    initial = model.get_weights()
    random = np.random.default_rng(5)
    rows, shape = batch_size * STEPS, model.input_shape[1:]
    if model.inputs[0].dtype == "int32":
        x = random.integers(0, 12, size=(rows, *shape))
    else:
        x = random.normal(size=(rows, *shape)).astype("float32")
    labels = random.integers(0, CLASSES, rows)
    model.fit(x, labels, batch_size=batch_size, shuffle=False, verbose=0)
    found = {"initial": initial, "weights": model.get_weights()}
    if strategy:
        after, variables = strategy.statistics(), strategy.plan.variables[known:]
        found["schemes"] = {v.name: str(v.scheme) for v in variables}
        found["dtypes"] = {v.name: v.factor_dtype for v in variables}
        found["reasons"] = {v.name: v.reason for v in variables}
        found["planned"], found["moved"] = (
            {scheme: count(scheme) for scheme in ("ps", "sfb", "rows")}
            for count in (
                lambda scheme: STEPS * sum(v.worker_bytes for v in variables if v.scheme == scheme),
                lambda scheme: payload(after, scheme) - payload(before, scheme),
            )
        )
    return found


def train_with_an_empty_share(scope: Any, batch_size: int) -> list[Any]:
    """The weights after a whole batch and one of 1 row, of which the last worker has none."""
    weights = []
    for build in (attention_net, words_net):
        keras.utils.set_random_seed(12)
        with scope():
            model = build()
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss)
        x = np.ones((batch_size + 1, *model.input_shape[1:]), model.inputs[0].dtype)
        model.fit(x, np.zeros(batch_size + 1), batch_size=batch_size, shuffle=False, verbose=0)
        weights += model.get_weights()
    return weights


def payload(statistics: Any, scheme: str) -> int:
    counted = getattr(statistics, scheme)
    return int(counted.sent_bytes + counted.received_bytes)


def main() -> None:
    folder, way = Path(sys.argv[1]), sys.argv[2]
    batch_size, num_replicas = int(sys.argv[3]), int(sys.argv[4])
    devices = logical_cpus(num_replicas)
    strategy = PoseidonStrategy(devices=devices) if way == "compact" else None
    scope = strategy.scope if strategy else contextlib.nullcontext
    rank = strategy.rank if strategy else 0
    arrays: dict[str, Any] = {}
    told = {}
    for case in CASES:
        found = train(case, scope, strategy, batch_size)
        for kind in ("initial", "weights"):
            for at, weight in enumerate(found.pop(kind)):
                # numpy's files know no bfloat16; every type here fits in float64.
                arrays[f"{case}/{kind}/{at}"] = np.asarray(weight).astype("float64")
        told[case] = found
    np.savez(folder / f"{way}-{rank}.npz", **arrays)
    result("cases", told)
    if strategy:
        uneven = train_with_an_empty_share(scope, batch_size)
        result("finite", all(bool(np.isfinite(weight).all()) for weight in uneven))
        arrays |= {f"uneven/{at}": weight for at, weight in enumerate(uneven)}
    content = b"".join(array.tobytes() for array in arrays.values())
    result("digest", hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
