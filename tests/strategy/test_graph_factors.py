"""What is read from a traced step: factors, their rows, narrow types, sparse rows, and why not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import keras
import pytest
import tensorflow as tf

from poseidon_tf.planner import VariableSpec
from poseidon_tf.strategy.gradients.sparse_optimizers import why_rows
from poseidon_tf.strategy.graph.describe import describe
from poseidon_tf.strategy.graph.products import Factor, Factors
from poseidon_tf.strategy.saved_model import specs_of_model

layers = keras.layers
BATCH, TOKENS = 4, 6


@contextlib.contextmanager
def policy(name: str) -> Iterator[None]:
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def specs_of(
    inputs: tuple[int | None, ...], *stack: Any, dtype: str = "float32", optimizer: Any = None
) -> list[VariableSpec]:
    value = tensor = keras.Input(inputs, dtype=dtype)
    for layer in stack:
        value = layer(value)
    model = keras.Model(tensor, value)
    return specs_of_model(model, optimizer=optimizer, batch_size=BATCH)


def attention(kind: Any) -> Any:
    return lambda inputs: kind(inputs, inputs)


KERNELS = {
    "dense": ((8,), lambda: layers.Dense(5), (8, 5), BATCH),
    "dense on sequences": ((TOKENS, 8), lambda: layers.Dense(5), (8, 5), BATCH * TOKENS),
    "dense on grids": ((2, 3, 8), lambda: layers.Dense(5), (8, 5), BATCH * 6),
    "einsum of rank 3": (
        (TOKENS, 8),
        lambda: layers.EinsumDense("abc,cde->abde", (TOKENS, 2, 5), bias_axes="de"),
        (8, 10),
        BATCH * TOKENS,
    ),
    "einsum, transposed": (
        (TOKENS, 8),
        lambda: layers.EinsumDense("abc,dc->abd", (TOKENS, 5), bias_axes="d"),
        (8, 5),
        BATCH * TOKENS,
    ),
    "einsum of matrices, transposed": (
        (8,),
        lambda: layers.EinsumDense("ab,cb->ac", 5, bias_axes="c"),
        (8, 5),
        BATCH,
    ),
    "einsum over the middle": (
        (12, 8),
        lambda: layers.EinsumDense("abc,bd->acd", (8, 5), bias_axes="d"),
        (12, 5),
        BATCH * 8,
    ),
}


@pytest.mark.parametrize("inputs, build, factors, rows", KERNELS.values(), ids=KERNELS)
def test_a_kernel_of_one_product_has_factors_rows_and_a_bias(
    inputs: Any, build: Callable[[], Any], factors: tuple[int, int], rows: int
) -> None:
    """M and N as the product has them, K as the batch makes it, and no message for the bias."""
    kernel, bias = specs_of(inputs, build())
    assert (kernel.factors, kernel.rows, kernel.factor_dtype) == (factors, rows, None)
    assert bias.bias_of == kernel.name


def specs_of_layer(layer: Any, shape: tuple[int | None, ...]) -> list[VariableSpec]:
    """Of a layer whose step is traced for inputs of just this shape."""
    found: list[VariableSpec] = []
    layer.build((None,) * (len(shape) - 1) + shape[-1:])

    def step(inputs: tf.Tensor) -> None:
        variables = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(inputs)))
        names = [variable.path for variable in layer.trainable_variables]
        gradients = tape.gradient(loss, variables)
        specs, _ = describe(names, gradients, variables, batch_size=BATCH, why_rows="")
        found.extend(specs)

    tf.function(step).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return found


ONES = [(1, None), (1, TOKENS), (BATCH, 1), (1, 1), (None, 1), (0, TOKENS)]


@pytest.mark.parametrize("rows, tokens", ONES)
@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize(
    "build",
    [
        lambda units: layers.Dense(units),
        lambda units: layers.EinsumDense("abc,cde->abde", (None, 2, units), bias_axes="de"),
        lambda units: Shifted(units),
    ],
    ids=["dense", "einsum", "own"],
)
def test_a_bias_is_its_kernels_whatever_dimension_is_one(
    rows: int | None, tokens: int | None, units: int, build: Callable[[int], Any]
) -> None:
    """TensorFlow leaves known ones out of the sum, or the sum out."""
    kernel, bias = specs_of_layer(build(units), (rows, tokens, 8))
    assert kernel.factors is not None
    assert bias.bias_of == kernel.name


@pytest.mark.parametrize("rows", [1, None])
def test_a_bias_of_a_flat_kernel_is_its_kernels(rows: int | None) -> None:
    kernel, bias = specs_of_layer(layers.Dense(1), (rows, 8))
    assert (kernel.factors, bias.bias_of) == ((8, 1), kernel.name)


def test_factors_that_are_turned_round_are_the_same_product() -> None:
    """TensorFlow multiplies the other way round where lengths are open."""
    U, V = Factor(tf.zeros([4, 3]), 3), Factor(tf.zeros([4, 5]), 5)
    plain, turned = Factors(U, V), Factors(V, U, (((5, 3), (1, 0)),))
    assert turned.arranged((3, 5), ()) == replace(turned, U=U, V=V, layouts=ANY)
    arranged = plain.arranged((5, 3), turned.layout)
    assert arranged is not None and arranged.layout == turned.layout
    assert plain.arranged((3, 5), ()) is plain
    assert plain.arranged((3, 5), (((3, 5), (1, 0)),)) is None
    assert plain.arranged((5, 3), ()) is None
    square = Factors(U, U)
    arranged = square.arranged((3, 3), (((3, 3), (1, 0)),))
    assert arranged is not None and arranged.layout == (((3, 3), (1, 0)),)


@pytest.mark.parametrize(
    "kind, key_sides",
    [
        (layers.MultiHeadAttention(2, 4), (8, 8)),
        (layers.GroupQueryAttention(4, 4, 2), (8, 8)),
    ],
    ids=["multi-head", "grouped queries"],
)
def test_every_kernel_of_attention_is_one_product(kind: Any, key_sides: tuple[int, int]) -> None:
    """Query, key, value and output, with their biases."""
    specs = specs_of((TOKENS, 8), attention(kind))
    kernels = [spec for spec in specs if spec.name.endswith("kernel")]
    assert len(kernels) == 4 and kernels[1].factors == key_sides
    assert all(spec.rows == BATCH * TOKENS for spec in kernels)
    assert [spec.bias_of for spec in specs[1::2]] == [spec.name for spec in kernels]


@pytest.mark.parametrize(
    "build",
    [lambda: layers.Dense(5), lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5))],
    ids=["dense", "einsum"],
)
def test_sequences_of_any_length_have_factors_but_no_known_rows(build: Callable[[], Any]) -> None:
    """The plan says so instead of guessing."""
    kernel = specs_of((None, 8), build())[0]
    assert kernel.factors is not None and kernel.rows is None
    assert kernel.why_not == "its sequences have no fixed length when the step is traced"


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_factors_of_mixed_precision_have_the_compute_type(name: str) -> None:
    """Variables are float32; what the step multiplies is half as wide, rows of a table too."""
    with policy(name):
        kernel, bias, last, _ = specs_of((8,), layers.Dense(5), layers.Dense(3))
        (words,) = specs_of((TOKENS,), layers.Embedding(20, 4), dtype="int32")
    narrow = name.removeprefix("mixed_")
    for spec in (kernel, last, words):
        assert (spec.dtype, spec.factor_dtype) == ("float32", narrow)
    assert bias.bias_of == kernel.name and bias.factor_dtype is None


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_factors_of_one_precision_have_the_variables_type(name: str) -> None:
    with policy(name):
        kernel, bias = specs_of((8,), layers.Dense(5), dtype=name)
    assert (kernel.dtype, kernel.factor_dtype, kernel.factors) == (name, None, (8, 5))
    assert bias.bias_of == kernel.name


def test_an_embedding_has_rows_of_all_its_lookups() -> None:
    """Several lookups of one table are one gradient; ids of any shape and type."""
    table = layers.Embedding(20, 4)
    inputs = keras.Input((TOKENS,), dtype="int64")
    model = keras.Model(inputs, layers.Concatenate(axis=1)([table(inputs), table(inputs[:, :2])]))
    (words,) = specs_of_model(model, optimizer=keras.optimizers.SGD(), batch_size=BATCH)
    assert words.sparse and words.factors is None
    assert words.rows == BATCH * (TOKENS + 2)
    assert words.why_rows == ""
    (words,) = specs_of((None,), layers.Embedding(20, 4), dtype="int32")
    assert words.sparse and words.rows is None


def test_a_table_that_is_also_multiplied_has_a_dense_gradient() -> None:
    """A tied softmax adds a product to the rows."""
    table = layers.Embedding(20, 4)
    inputs = keras.Input((TOKENS,), dtype="int32")
    tied = layers.Lambda(lambda hidden: hidden @ keras.ops.transpose(table.embeddings))
    model = keras.Model(inputs, tied(layers.Dense(4)(table(inputs))))
    words = specs_of_model(model, batch_size=BATCH)[0]
    assert words.name.endswith("embeddings") and not words.sparse and words.factors is None


def twice() -> Any:
    layer = layers.Dense(8)
    return lambda value: layer(layer(value))


WHY_NOT = {
    "a convolution": ((8, 8, 2), lambda: layers.Conv2D(3, 3), "Conv2DBackpropFilter"),
    "a recurrent kernel": ((TOKENS, 8), lambda: layers.LSTM(5), "While"),
    "a kernel used twice": ((8,), twice, "AddN"),
    "a regularised kernel": ((8,), lambda: layers.Dense(5, kernel_regularizer="l2"), "AddN"),
    "a product for each head": (
        (3, 8),
        lambda: layers.EinsumDense("abc,bcd->abd", (3, 5)),
        "not a single product",
    ),
}


@pytest.mark.parametrize("inputs, build, why", WHY_NOT.values(), ids=WHY_NOT)
def test_a_kernel_of_something_else_says_what_it_is(
    inputs: Any, build: Callable[[], Any], why: str
) -> None:
    kernel = specs_of(inputs, build())[0]
    assert kernel.factors is None and not kernel.sparse
    assert why in kernel.why_not


def test_a_bias_of_another_shape_than_the_kernels_columns_is_not_the_kernels() -> None:
    """The same gradient summed over other dimensions is another sum."""
    dense = layers.Dense(15, use_bias=False)
    kernel, shift = specs_of((8,), dense, layers.Reshape((3, 5)), Shift())
    assert kernel.factors == (8, 15)
    assert shift.shape == (5,) and shift.bias_of is None


class Shifted(keras.layers.Layer):
    """A kernel and a bias without Keras's own layers."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, value: Any) -> Any:
        return tf.matmul(value, self.kernel) + self.bias


class Shift(keras.layers.Layer):
    """Adds one number to every feature."""

    def build(self, shape: Any) -> None:
        self.shift = self.add_weight(shape=(shape[-1],), name="shift")

    def call(self, value: Any) -> Any:
        return value + self.shift


@pytest.mark.parametrize(
    "optimizer, why",
    [
        (keras.optimizers.SGD(), ""),
        (keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=0.1), ""),
        (keras.optimizers.Lion(), ""),
        (keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD()), ""),
        (keras.optimizers.SGD(clipnorm=1.0), "clipnorm of SGD"),
        (keras.optimizers.SGD(clipvalue=1.0), "clipvalue of SGD"),
        (keras.optimizers.SGD(global_clipnorm=1.0), "global_clipnorm of SGD"),
        (keras.optimizers.Adam(), "Adam may look at every row"),
        (keras.optimizers.Adagrad(), "Adagrad may look at every row"),
        (keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam()), "Adam may look"),
        (None, "the optimizer is not known"),
    ],
)
def test_only_an_optimizer_that_is_linear_in_the_gradient_does_without_rows(
    optimizer: Any, why: str
) -> None:
    assert bool(why_rows(optimizer)) == bool(why)
    assert why in why_rows(optimizer)


def test_a_subclass_of_a_linear_optimizer_may_look_at_rows() -> None:
    class Squares(keras.optimizers.SGD):
        pass

    assert why_rows(Squares()) == "Squares may look at every row by itself"
