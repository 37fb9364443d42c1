"""What a traced step tells of its time, its batch left open; and rank 0's word for all."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf

from poseidon_tf.launch.join import Membership
from poseidon_tf.planner import Measured, Outlook, VariableSpec
from poseidon_tf.planner.measured import Seen, Way
from poseidon_tf.strategy.gradients.foresight import Foresight, TracedStep
from poseidon_tf.strategy.graph.shares import StepShares, shares_of_step
from poseidon_tf.strategy.graph.work import flops_of, shares_of_trace
from poseidon_tf.strategy.multiplication import flops_per_s
from tests.session.jobs_in_process import InProcess

ROWS = 4


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, padding="same", strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def sequential() -> keras.Model:
    """Dense layers over 12 positions of a sequence: a batch of 4 makes products of 48 rows."""
    return keras.Sequential([keras.Input((12, 8)), keras.layers.Dense(32), keras.layers.Dense(5)])


def traced(model: keras.Model, *, open_batch: bool) -> tuple[StepShares, Any, list[Any], list[Any]]:
    """What the step of a model, traced for an open batch, tells; else what the profiler does."""
    told: list[Any] = []
    variables = [variable.value for variable in model.trainable_variables]
    names = [str(at) for at in range(len(variables))]

    def step(x: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        gradients = tape.gradient(loss, variables)
        graph = tf.compat.v1.get_default_graph()
        shares = shares_of_trace(
            graph,
            dict(zip(names, variables, strict=True)),
            dict(zip(names, gradients, strict=True)),
            rows=ROWS,
        )
        told.extend([shares, graph, variables, gradients])

    shape = [None if open_batch else ROWS, *model.inputs[0].shape[1:]]
    function = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec(shape))
    if not open_batch:
        told[0] = shares_of_step(
            function,
            dict(zip(names, variables, strict=True)),
            dict(zip(names, told[3], strict=True)),
        )
    return told[0], told[1], told[2], told[3]


def test_products_over_a_sequence_are_counted_by_hand_alike() -> None:
    """Two or three products for each kernel: the first layer's input may have a gradient or not.

    TensorFlow 2.16's profiler counts transposed batches of products by the wrong side.
    """
    found, _, _, _ = traced(sequential(), open_batch=True)
    first, second = 2 * ROWS * 12 * 8 * 32, 2 * ROWS * 12 * 32 * 5
    assert found.flops in (2 * first + 3 * second, 3 * first + 3 * second)


def test_an_open_batch_tells_what_the_profiler_tells_of_a_known_one() -> None:
    """The profiler counts sums, too, which are little beside products."""
    model = convolutional()
    known, _, _, _ = traced(model, open_batch=False)
    found, _, _, _ = traced(model, open_batch=True)
    assert found.flops == pytest.approx(known.flops, rel=0.06)
    for name in known.exists:
        assert found.exists[name] == pytest.approx(known.exists[name], abs=0.06)
        assert found.needed[name] == pytest.approx(known.needed[name], abs=0.06)
    assert max(found.exists.values()) == 1.0
    assert sorted(found.needed.values()) == list(found.needed.values())


def test_operations_are_counted_by_their_shapes() -> None:
    """2 m k n of a product, whichever is open; sums and unknown ranks count nothing."""
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 3])
        w = tf.compat.v1.placeholder(tf.float32, [3, 7])
        y = x @ w
        back = tf.linalg.matmul(x, y, transpose_a=True)
        per_head = tf.einsum(
            "bqd,bkd->bqk", *[tf.compat.v1.placeholder(tf.float32, [None, 5, 6])] * 2
        )
        batched = tf.linalg.matmul(*[tf.compat.v1.placeholder(tf.float32, [None, 5, 5])] * 2)
        unknown = tf.linalg.matmul(*[tf.compat.v1.placeholder(tf.float32)] * 2)
        images = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        convolved = tf.nn.conv2d(images, tf.ones([3, 3, 3, 6]), 1, "VALID")
        counts = [
            flops_of(each.op, rows=10)
            for each in (y, back, per_head, batched, unknown, convolved, x + 1)
        ]
    assert counts == [
        2 * 10 * 3 * 7,
        2 * 3 * 10 * 7,
        2 * 10 * 5 * 5 * 6,
        2 * 10 * 5 * 5 * 5,
        0,
        2 * (10 * 6 * 6 * 6) * (3 * 3 * 3),
        0,
    ]


def test_a_device_multiplies_at_a_speed_that_can_be() -> None:
    assert 1e8 < flops_per_s("/CPU:0") < 1e15


def measured() -> Measured:
    seen = Seen(
        host="here",
        cores=2,
        servers=(Way(1e-3, 1e9),),
        workers=(Way(0.0, 0.0), Way(1e-3, 1e9)),
        own_server=None,
        sum_s=1e-3,
        sums_bits_per_s=1e9,
        message_s=1e-4,
        byte_s=1e-9,
        sum_byte_s=1e-10,
        flops_per_s=1e6,
    )
    return Measured(seen=(seen, seen), took_s=0.5)


SPECS = [
    VariableSpec(name=f"of rank 0/{at}", shape=shape, dtype="float32")
    for at, shape in enumerate([(8, 32), (32,), (32, 5), (5,)])
]


def agreed(step: TracedStep, step_s: tuple[float | None, float | None]) -> list[Outlook | None]:
    """By rank, what two workers agree on who have these figures of their own."""

    def work(member: Membership) -> Outlook | None:
        rank = member.worker.rank
        foresight = Foresight(
            member.worker, measured().machines, step_s=step_s[rank], is_across=lambda: rank == 0
        )
        # Another worker may see nothing of a step, and not be asked.
        return foresight.agree(SPECS, step if rank == 0 else TracedStep(None, None, [], []))

    results, _ = InProcess(2, 1).run(work)
    return results


@pytest.mark.connections
def test_rank_0_tells_all_workers_what_it_expects() -> None:
    """By the operations of its step and the device's speed, unless its user knows better."""
    shares, graph, variables, gradients = traced(sequential(), open_batch=True)
    step = TracedStep(graph, ROWS, variables, gradients)
    first, second = agreed(step, (None, 7.0))
    assert first == second
    assert first is not None
    assert first.timeline.compute_s == pytest.approx(shares.flops / 1e6)
    assert first.timeline.exists_s["of rank 0/0"] == pytest.approx(
        shares.exists["0"] * shares.flops / 1e6
    )
    assert (first.across_step, first.machines) == (True, measured().machines())
    by_user, _ = agreed(step, (0.5, 7.0))
    assert by_user is not None
    assert by_user.timeline.compute_s == 0.5


@pytest.mark.connections
def test_of_a_step_that_is_not_traced_or_has_no_known_rows_nothing_is_expected() -> None:
    _, graph, variables, gradients = traced(sequential(), open_batch=True)
    assert agreed(TracedStep(None, ROWS, variables, gradients), (0.5, 0.5)) == [None, None]
    assert agreed(TracedStep(graph, None, variables, gradients), (0.5, 0.5)) == [None, None]
