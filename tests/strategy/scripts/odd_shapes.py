"""Random models, each trained while one worker's batches have other shapes than the others'.

Arguments: the first seed, how many models, and of how many workers the job is: one process alone
takes the shares of all of them in turn. All numbers are whole, and small enough for float64 to hold
every sum exactly, whatever its order.
"""

import hashlib
import random
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

WIDTH = 16
SHAPE = tuple[int, int]
"""Rows and tokens of one worker's batch."""


class Product(keras.layers.Layer):
    """A kernel and a bias without Keras's own layers."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], WIDTH), name="w")
        self.b = self.add_weight(shape=(WIDTH,), name="b")

    def call(self, x: Any) -> Any:
        return tf.matmul(x, self.w) + self.b


KINDS: dict[str, Callable[[], Any]] = {
    "dense": lambda: keras.layers.Dense(WIDTH, activation="relu"),
    "one unit": lambda: keras.layers.Dense(1),
    "heads": lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 4, 4), bias_axes="de"),
    "turned": lambda: keras.layers.EinsumDense("abc,dc->abd", (None, WIDTH), bias_axes="d"),
    "turned, no bias": lambda: keras.layers.EinsumDense("abc,dc->abd", (None, WIDTH)),
    "product": Product,
}


def model_of(chance: random.Random) -> Any:
    """Two to three layers, perhaps behind a table."""
    has_table = chance.random() < 0.3
    inputs = keras.Input(
        (None,) if has_table else (None, WIDTH), dtype="int32" if has_table else None
    )
    value = keras.layers.Embedding(9, WIDTH)(inputs) if has_table else inputs
    for _ in range(chance.randint(1, 2)):
        kind = chance.choice([name for name in KINDS if name != "one unit"])
        value = KINDS[kind]()(value)
        if len(value.shape) == 4:
            value = keras.layers.Reshape((-1, WIDTH))(value)
    model = keras.Model(inputs, KINDS[chance.choice(["one unit", "heads", "turned"])]()(value))
    for variable in model.variables:
        values = [chance.randint(-1, 1) for _ in range(int(np.prod(variable.shape)))]
        variable.assign(np.reshape(values, variable.shape))
    return model


def shapes_of(chance: random.Random, num_steps: int, num_workers: int) -> list[list[SHAPE]]:
    """By step and rank. Somebody's are never those of the others."""
    odd = chance.randrange(num_workers)
    steps = []
    for step in range(num_steps):
        usual = chance.randint(2, 3), chance.randint(2, 4)
        first = 0 if step else 1  # The plan is made of rows.
        own = chance.choice([(1, usual[1]), (usual[0], 1), (1, 1), (first, 5), (1, 5), (4, 3)])
        steps.append([own if rank == odd else usual for rank in range(num_workers)])
    return steps


def share_of(seed: int, step: int, rank: int, shape: SHAPE, model: Any) -> Any:
    numbers = np.random.default_rng([seed, step, rank])
    if model.input.dtype == "int32":
        return tf.constant(numbers.integers(0, 9, shape), tf.int32)
    return tf.constant(numbers.integers(-1, 2, (*shape, WIDTH)), tf.float64)


def loss_of(model: Any, x: Any, *, with_penalty: bool) -> Any:
    """Linear in what the model gives; a batch of one known row may cost something besides."""
    loss = tf.reduce_sum(model(x))
    if with_penalty and x.shape[0] == 1:
        # The gradient of no kernel is one product then.
        loss += sum(tf.reduce_sum(variable) for variable in model.trainable_variables)
    return loss


def train(strategy: Any, seed: int, num_workers: int) -> str:
    """A digest of the weights after all steps."""
    chance = random.Random(seed)
    how = chance.choice(["traced again", "penalty", "relaxed", "open"])
    with strategy.scope():
        model = model_of(chance)
        optimizer = keras.optimizers.SGD(1.0)
    variables = model.trainable_variables
    # With more, numbers would no longer be small.
    num_steps = 3 if sum(len(v.shape) > 1 for v in variables) <= 2 else 2
    steps = shapes_of(chance, num_steps, num_workers)

    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, with_penalty=how == "penalty")
        return tape.gradient(loss, [variable.value for variable in variables])

    options: dict[str, Any] = {"relaxed": {"reduce_retracing": True}}.get(how, {})
    if how == "open":
        shape = [None] * len(model.input.shape[:2]) + list(model.input.shape[2:])
        options = {"input_signature": [tf.TensorSpec(shape, model.input.dtype)]}

    @tf.function(**options)
    def step(x: Any) -> None:
        strategy.run(lambda x: optimizer.apply(gradients(x), variables), args=(x,))

    for number, shapes in enumerate(steps):
        shares = [share_of(seed, number, rank, each, model) for rank, each in enumerate(shapes)]
        if strategy.num_workers > 1:
            step(shares[strategy.rank])
        else:
            of_each = [gradients(x) for x in shares]
            optimizer.apply([_added(parts) for parts in zip(*of_each, strict=True)], variables)
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


def _added(parts: Any) -> Any:
    if all(isinstance(part, tf.IndexedSlices) for part in parts):
        values = tf.concat([part.values for part in parts], axis=0)
        indices = tf.concat([part.indices for part in parts], axis=0)
        return tf.IndexedSlices(values, indices, parts[0].dense_shape)
    return tf.add_n([tf.convert_to_tensor(part) for part in parts])


def main() -> None:
    first, count, num_workers = (int(argument) for argument in sys.argv[1:])
    keras.config.set_floatx("float64")
    strategy = PoseidonStrategy()
    for seed in range(first, first + count):
        result(f"weights-{seed}", train(strategy, seed, num_workers))
    planned = strategy.plan.variables if strategy.plan else ()
    result("schemes", sorted({str(variable.scheme) for variable in planned}))


if __name__ == "__main__":
    main()
