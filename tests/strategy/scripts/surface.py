"""What programs ask of any `tf.distribute.Strategy`, in eager mode and in `tf.function`.

Runs under `MirroredStrategy` too, which is the reference. Arguments: "mirrored" or "poseidon", and
the number of this process's replicas. `replica_values` says how what comes of it is shown.
"""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from replica_values import across, bits, by_replica, numbers, replica, run, shown
from report import result

import poseidon_tf

DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "complex64 complex128"
).split()


def identities(strategy: Any) -> dict[str, Any]:
    """Who is who, and what each local replica got."""
    values = by_replica(strategy, lambda i: tf.constant(i))
    ids = strategy.run(lambda value: (value, replica().replica_id_in_sync_group), (values,))
    with strategy.scope():
        outside = [replica() is None, tf.distribute.in_cross_replica_context()]
    return {
        "num_replicas": strategy.num_replicas_in_sync,
        "in_run": strategy.experimental_local_results(
            strategy.run(lambda: replica().num_replicas_in_sync)
        )[0],
        "values": [int(each) for each in strategy.experimental_local_results(values)],
        "ids": [[int(i) for i in strategy.experimental_local_results(each)] for each in ids],
        "a plain value": [int(each) for each in strategy.experimental_local_results(7)],
        "outside of replicas": outside,
    }


def reduced(strategy: Any) -> dict[str, Any]:
    """Over the replicas, and over a last batch with unequal shares."""
    whole = by_replica(strategy, lambda i: numbers(10 * i, (2, 3)))
    ints = by_replica(strategy, lambda i: numbers(4 * i, (4,), "int32"))
    partial = by_replica(strategy, lambda i: numbers(7 * i, (i + 1, 2)))
    with_empty = by_replica(strategy, lambda i: numbers(7 * i, (3 * (1 - i % 2), 2)))
    found = {}
    for op in ("SUM", "MEAN"):
        for name, value, axis in (
            ("whole", whole, None),
            ("ints", ints, None),
            ("whole-0", whole, 0),
            ("partial-0", partial, 0),
            ("whole-1", whole, -1),
            ("with-empty-0", with_empty, 0),
        ):
            found[f"{op}-{name}"] = across(
                strategy, lambda v, op=op, axis=axis: strategy.reduce(op, v, axis=axis), value
            )
    op = tf.distribute.ReduceOp.SUM
    found["structure"] = across(
        strategy, lambda a, b: strategy.reduce(op, [a, {"b": b}], axis=None), whole, ints
    )
    return found


def gathered(strategy: Any) -> dict[str, Any]:
    """Unequal lengths, along every axis, with replicas that have nothing."""
    found = {}
    for axis in range(3):

        def make(i: int, axis: int = axis) -> np.ndarray:
            shape = [2, 3, 2]
            shape[axis] = 2 * i + 1
            return numbers(100 * i, tuple(shape))

        found[f"axis-{axis}"] = across(
            strategy, lambda v, axis=axis: strategy.gather(v, axis), by_replica(strategy, make)
        )
    nothing = by_replica(strategy, lambda i: numbers(0, (0, 2)))
    found["nothing"] = across(strategy, lambda v: strategy.gather(v, 0), nothing)
    only_last = by_replica(strategy, lambda i: numbers(0, (i // 2 * 2, 2)))
    found["some-nothing"] = across(strategy, lambda v: strategy.gather(v, 0), only_last)
    return found


def dtypes(strategy: Any) -> dict[str, Any]:
    """By dtype, what was gathered and what one process joins."""
    everyone = range(strategy.num_replicas_in_sync)
    return {
        dtype: [
            bits(tf.concat([extremes(i, dtype) for i in everyone], axis=0)),
            across(
                strategy,
                lambda v: strategy.gather(v, 0),
                by_replica(strategy, lambda i, dtype=dtype: extremes(i, dtype)),
            ),
        ]
        for dtype in DTYPES
    }


def extremes(i: int, dtype: str) -> tf.Tensor:
    """Two elements and one more per replica: minus zero, NaN, ends of the range."""
    tf_dtype = tf.as_dtype(dtype)
    if dtype == "bool":
        return tf.constant([True, False] + [i % 2 == 0] * i)
    if tf_dtype.is_integer:
        return tf.constant([tf_dtype.min, tf_dtype.max] + [i] * i, tf_dtype)
    if tf_dtype.is_complex:
        return tf.constant([complex(-0.0, np.inf), complex(np.nan, i)] + [1j * i] * i, tf_dtype)
    return tf.constant([-0.0, np.nan] + [-np.inf, *range(i)][:i], tf_dtype)


def all_reduced(strategy: Any) -> dict[str, Any]:
    """Nested, in a branch, and the gradient of a sum and of a mean."""

    def nested(value: Any) -> Any:
        both = {"a": value, "b": [2 * value, tf.cast(value, tf.int64), tf.cast(value, tf.float64)]}
        return [replica().all_reduce(op, both) for op in ("SUM", tf.distribute.ReduceOp.SUM)]

    def mean(value: Any) -> Any:
        return replica().all_reduce("MEAN", [value, 3 * value])

    def gradients(value: Any) -> Any:
        i = tf.cast(replica().replica_id_in_sync_group, tf.float32)
        found = []
        for op in ("SUM", "MEAN"):
            with tf.GradientTape() as tape:
                tape.watch(value)
                total = replica().all_reduce(op, value)
                loss = tf.reduce_sum(total * value) * (i + 1)
            found.append(tape.gradient(loss, value))
        return found

    value = by_replica(strategy, lambda i: numbers(4 * i, (2, 2)))
    return {fn.__name__: run(strategy, fn, value) for fn in (nested, mean, gradients)}


def shared(strategy: Any) -> dict[str, Any]:
    """What all replicas bring is one and the same tensor."""
    tensor = tf.constant(numbers(3, (2, 2)))
    rows = tf.IndexedSlices(tensor, tf.constant([4, 1]), tf.constant([6, 2]))

    def reduce() -> Any:
        total, mean = (replica().all_reduce(op, tensor) for op in ("SUM", "MEAN"))
        return total, mean, tf.convert_to_tensor(replica().all_reduce("SUM", rows))

    def update() -> Any:
        optimizer.apply([tensor], [variable])

    found = {"reduced": run(strategy, reduce)}
    for way, wrap in (("eager", lambda fn: fn), ("function", tf.function)):
        with strategy.scope():
            variable = tf.Variable(tf.zeros((2, 2)))
            optimizer = keras.optimizers.SGD(1.0)
            optimizer.build([variable])
        wrap(lambda: strategy.run(update))()
        found[way] = shown(strategy, variable)
    return found


def sparse_reduced(strategy: Any) -> dict[str, Any]:
    """Sparse rows stay sparse rows; a dense value travels along."""

    def rows(value: Any, op: str) -> Any:
        indices = tf.range(tf.shape(value)[0])
        slices = tf.IndexedSlices(value, indices, tf.constant([10, 2]))
        dense, sparse = replica().all_reduce(op, [value[0], slices])
        return dense, sparse.values, sparse.indices

    value = by_replica(strategy, lambda i: numbers(8 * i, (i + 1, 2)))
    return {
        op: run(strategy, lambda value, op=op: rows(value, op), value) for op in ("SUM", "MEAN")
    }


def all_gathered(strategy: Any) -> dict[str, Any]:
    """Nested, along every axis, and its gradient."""

    def nested(short: Any, wide: Any) -> Any:
        first = replica().all_gather({"a": short, "b": [wide, tf.cast(short, tf.int64)]}, axis=0)
        return first, replica().all_gather(tf.transpose(short), axis=1)

    def gradient(short: Any, wide: Any) -> Any:
        i = tf.cast(replica().replica_id_in_sync_group, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(short)
            everything = replica().all_gather(short, axis=0)
            weights = tf.reshape(
                tf.range(tf.cast(tf.size(everything), tf.float32)), tf.shape(everything)
            )
            loss = tf.reduce_sum(weights * everything * everything) * (i + 1)
        return tape.gradient(loss, short)

    def gradient_along_1(short: Any, wide: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(wide)
            loss = tf.reduce_sum(replica().all_gather(wide, axis=1) ** 2)
        return tape.gradient(loss, wide)

    short = by_replica(strategy, lambda i: numbers(9 * i, (i + 1, 3)))
    wide = by_replica(strategy, lambda i: numbers(5 * i, (2, 4)))
    return {
        fn.__name__: run(strategy, fn, short, wide) for fn in (nested, gradient, gradient_along_1)
    }


def retraced(strategy: Any) -> list[Any]:
    """The first replica's share keeps its shape, the others' grow: they trace more often."""

    @tf.function
    def step(value: Any) -> Any:
        everything = strategy.gather(value, 0)
        total = strategy.run(lambda v: replica().all_reduce("SUM", tf.reduce_sum(v)), (value,))
        return everything, total

    return [
        shown(strategy, step(by_replica(strategy, lambda i, n=n: numbers(i, (1 + n * (i > 0), 2)))))
        for n in range(3)
    ]


def updated(strategy: Any) -> dict[str, Any]:
    """Variables assigned in replicas, by aggregation, and outside of replicas."""
    found = {}
    for kind in (tf.VariableAggregation.SUM, tf.VariableAggregation.MEAN):
        with strategy.scope():
            variable = tf.Variable([1.0, 2.0], aggregation=kind)

        def assign(value: Any, variable: Any = variable) -> Any:
            variable.assign_add(value)
            return variable.read_value()

        value = by_replica(strategy, lambda i: numbers(4 * i, (2,)))
        found[kind.name] = run(strategy, assign, value)
    with strategy.scope():
        variable = tf.Variable(3.0)
        strategy.extended.update(variable, lambda v, by: v.assign_add(by), args=(2.0,))
    found["outside"] = shown(strategy, variable)
    return found


def branches(strategy: Any) -> dict[str, Any]:
    """Sums and assignments in branches that nothing orders, and in a loop.

    With several replicas TensorFlow's own strategy fails here: it leaves the replica for them.
    """
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0], aggregation=tf.VariableAggregation.SUM)

    def step(value: Any) -> Any:
        first = tf.cond(value[0] > -1, lambda: replica().all_reduce("SUM", value), lambda: value)
        second = tf.cond(
            value[0] > -1, lambda: replica().all_reduce("SUM", 2 * value), lambda: value
        )
        tf.cond(value[0] > -1, lambda: variable.assign(value), lambda: variable)
        _, looped = tf.while_loop(
            lambda n, _: n < 2,
            lambda n, each: (n + 1, replica().all_reduce("MEAN", each)),
            (0, value),
        )
        return first, second, variable.read_value(), looped

    return run(strategy, step, by_replica(strategy, lambda i: numbers(4 * i, (2,))))


def misused(strategy: Any) -> dict[str, Any]:
    """The errors that TensorFlow has for what no strategy can do."""
    other = tf.distribute.MirroredStrategy(["CPU:0"])
    value = by_replica(strategy, lambda i: numbers(i, (2,)))
    plain = tf.Variable(1.0)

    def nested_scopes() -> None:
        with strategy.scope(), other.scope():
            pass

    def foreign_variable() -> None:
        with other.scope():
            strategy.extended.update(tf.Variable(1.0), lambda v: v.assign(2.0))

    def scope_in_replica() -> None:
        with strategy.scope():
            pass

    def slices() -> tf.IndexedSlices:
        return tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([3, 2]))

    programs = {
        "nested scopes": nested_scopes,
        "foreign variable": foreign_variable,
        "plain variable": lambda: strategy.extended.update(plain, lambda v: v.assign(2.0)),
        "run in a replica": lambda: strategy.run(lambda: strategy.run(lambda: 1)),
        "other scope in a replica": lambda: strategy.run(lambda: other.run(lambda: 1)),
        "reduce in a replica": lambda: strategy.run(lambda: strategy.reduce("SUM", 1.0, None)),
        "gather in a replica": lambda: strategy.run(lambda v: strategy.gather(v, 0), (value,)),
        "mean of a string": lambda: strategy.reduce("AVERAGE", value, axis=None),
        "gathered rows": lambda: strategy.gather(slices(), 0),
        "all-gathered rows": lambda: strategy.run(lambda: replica().all_gather(slices(), 0)),
        "mean along no axis": lambda: strategy.reduce("MEAN", value, axis=3),
        "a python number": lambda: strategy.reduce("SUM", 3.0, axis=None),
    }
    found: dict[str, Any] = {name: error_of(program) for name, program in programs.items()}
    # None of them may leave the thread in another context.
    found["afterwards"] = across(strategy, lambda v: strategy.reduce("SUM", v, axis=None), value)
    return found


def refused(strategy: Any) -> dict[str, Any]:
    """What only this package says no to, or says in its own words."""

    def in_session() -> None:
        with tf.Graph().as_default():
            strategy.run(lambda: replica().all_reduce("SUM", tf.constant(1.0)))

    quantized = by_replica(strategy, lambda i: tf.bitcast(tf.constant([1], tf.int8), tf.qint8))
    scalar = by_replica(strategy, lambda i: tf.constant(1.0))
    small = by_replica(strategy, lambda i: tf.constant([1], tf.int8))
    uneven = by_replica(
        strategy, lambda i: tf.zeros([2, 1 + i // len(strategy.extended.worker_devices)])
    )
    programs = {
        "quantized": lambda: strategy.gather(quantized, 0),
        "scalar": lambda: strategy.gather(scalar, 0),
        "axis": lambda: strategy.gather(small, 1),
        "int8": lambda: strategy.reduce("SUM", small, axis=None),
        "session": in_session,
        "uneven": lambda: strategy.gather(uneven, 0),
        "uneven in a function": lambda: tf.function(lambda v: strategy.gather(v, 0))(uneven),
    }
    found: dict[str, Any] = {name: error_of(program) for name, program in programs.items()}
    found["afterwards"] = across(strategy, lambda v: strategy.gather(v, 0), small)
    return found


def error_of(program: Callable[[], Any]) -> list[str]:
    try:
        program()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


CASES = {
    "identities": identities,
    "reduced": reduced,
    "gathered": gathered,
    "dtypes": dtypes,
    "all_reduced": all_reduced,
    "shared": shared,
    "sparse_reduced": sparse_reduced,
    "all_gathered": all_gathered,
    "retraced": retraced,
    "updated": updated,
    "branches": branches,
    "misused": misused,
    "refused": refused,
}


def main() -> None:
    way, count = sys.argv[1], int(sys.argv[2])
    devices = logical_cpus(count)
    if way == "mirrored":
        # Its other ways crash in a gather between CPUs.
        one_device = tf.distribute.ReductionToOneDevice()
        strategy: Any = tf.distribute.MirroredStrategy(devices, cross_device_ops=one_device)
    else:
        strategy = poseidon_tf.PoseidonStrategy(devices=devices)
    cases = sys.argv[3].split(",") if len(sys.argv) > 3 else CASES
    for case in cases:
        result(case, CASES[case](strategy))


if __name__ == "__main__":
    main()
