"""Custom loops with poseidon_tf.GradientTape, and what is refused. Argument: "break", or none.

Alone, each step sees the joined batch. Both halves of a batch hold the same features in another
order, so that BatchNormalization has the same statistics for a half as for the whole.
"""

import contextlib
import functools
import hashlib
import itertools
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

STEPS, HALF = 4, 6
strategy = poseidon_tf.PoseidonStrategy(coalesce_bytes=0 if "break" in sys.argv else 65536)
IS_ALONE = strategy.num_workers == 1
tape_class = poseidon_tf.GradientTape


class Net(keras.Model):
    """A table, a layer that is used twice and one that never is, BatchNormalization, a weight."""

    def __init__(self) -> None:
        super().__init__(name="net")
        self.table = keras.layers.Embedding(7, 16, name="table")
        self.first = keras.layers.Dense(24, name="first")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.twice = keras.layers.Dense(24, activation="tanh", name="twice")
        self.unused = keras.layers.Dense(5, name="unused")
        self.top = keras.layers.Dense(4, name="top")
        self.scale = self.add_weight(shape=(24,), initializer="ones", name="scale")
        self.unused.build((None, 24))

    def call(self, inputs: Any, training: bool = False) -> Any:
        ids, x = inputs
        hidden = self.norm(self.first(tf.concat([self.table(ids), x], 1)), training=training)
        hidden = self.twice(self.twice(hidden)) * self.scale
        return self.top(hidden)


def data() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    random = np.random.default_rng(3)
    batches = []
    for _ in range(STEPS):
        ids = random.integers(0, 7, HALF)
        x = random.normal(size=(HALF, 8)).astype("float32")
        order = random.permutation(HALF)
        y = random.normal(size=(2 * HALF, 4)).astype("float32")
        batches.append((np.concatenate([ids, ids[order]]), np.concatenate([x, x[order]]), y))
    return batches


def share_of(array: np.ndarray) -> tf.Tensor:
    rank = strategy.rank
    return tf.constant(array if IS_ALONE else array[rank * HALF : (rank + 1) * HALF])


def mean_error(predicted: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(predicted - y))


def loss_of(model: Net, ids: tf.Tensor, x: tf.Tensor, y: tf.Tensor, leaves_out: bool) -> tf.Tensor:
    """This process's part of the mean over the joined batch.

    Args:
      leaves_out: rank 1's part depends on the top layer alone.
    """
    predicted = model((ids, x), training=True)
    if not leaves_out:
        return mean_error(predicted, y) / strategy.num_replicas_in_sync
    rest = tf.reduce_mean(tf.square(model.top(tf.ones((2, 24)))))
    if IS_ALONE:
        return (mean_error(predicted[:HALF], y[:HALF]) + rest) / 2
    return (rest if strategy.rank == 1 else mean_error(predicted, y)) / 2


def clipped(gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
    # Dense, as sums are: of sparse rows each would be clipped before equal ones are added.
    return [
        None if each is None else tf.clip_by_norm(tf.convert_to_tensor(each), 0.05)
        for each in gradients
    ]


def train(name: str, *, in_graph: bool, change: Any = None, unused_once: bool = False) -> None:
    keras.utils.set_random_seed(8)
    with strategy.scope():
        model = Net()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    nones: set[str] = set()

    def step(ids: tf.Tensor, x: tf.Tensor, y: tf.Tensor, leaves_out: bool) -> None:
        with tape_class() as tape:
            loss = loss_of(model, ids, x, y, leaves_out)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        nones.update(v.path for v, g in zip(variables, gradients, strict=True) if g is None)
        optimizer.apply(change(gradients) if change else gradients, variables)

    if in_graph:
        step = tf.function(step)
    for at, (ids, x, y) in enumerate(data()):
        args = (share_of(ids), share_of(x), share_of(y), unused_once and at == 2)
        strategy.run(step, args=args)
    weights = [weight.tolist() for weight in model.get_weights()]
    result(f"{name}-weights", weights)
    digest = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
    result(f"{name}-digest", digest)
    result(f"{name}-none", sorted(nones))


def refusal(step: Callable[[], object]) -> str:
    """What running `step` in a replica is refused with, or "accepted"."""
    try:
        strategy.run(step)
    except Exception as failure:  # AutoGraph wraps what is raised while it traces.
        return f"{type(failure).__name__}: {failure}"
    return "accepted"


def refusals() -> None:
    """Small steps over two variables, each with what the next one must not inherit."""
    rate = 0.5
    with strategy.scope():
        a = tf.Variable([1.0, 2.0, 3.0], name="a")
        b = tf.Variable([1.0, 1.0], name="b")
        c = tf.Variable([1.0], name="c")
        d = tf.Variable([1.0], name="d")
        first, second = keras.optimizers.SGD(rate), keras.optimizers.SGD(rate)
        first.build([a, b, c, d])
        second.build([a, b, c, d])
    x = float(strategy.rank + 1)
    total = sum(rank + 1.0 for rank in range(strategy.num_workers))

    def gradients(tape_class: Any, *variables: Any) -> Any:
        with tape_class() as tape:
            loss = tf.add_n([tf.reduce_sum(variable * x) for variable in variables])
        return tape.gradient(loss, list(variables))

    def moved(*pairs: tuple[Any, np.ndarray]) -> list[float]:
        """By how many sums of gradients each variable has moved since it was last asked for."""
        found = []
        for variable, start in pairs:
            found.append(((start - variable.numpy()) / (rate * total)).tolist())
            variable.assign(start)
        return found

    a_start, b_start = a.numpy(), b.numpy()

    def two_optimizers() -> None:
        grads = gradients(tape_class, a, b)
        first.apply(grads[:1], [a])
        second.apply(grads[1:], [b])

    def changed() -> None:
        (grad,) = gradients(tape_class, a)
        first.apply([grad * 2.0], [a])

    def twice_one_sum() -> None:
        grads = gradients(tape_class, a)
        first.apply(grads, [a])
        second.apply(grads, [a])

    def accumulated() -> None:
        (one,), (two,) = gradients(tape_class, a), gradients(tape_class, a)
        first.apply([one + two], [a])

    def by_turns() -> None:
        first.apply(gradients(tape_class, a), [a])
        first.apply(gradients(tf.GradientTape, a), [a])

    def persistent() -> None:
        with tape_class(persistent=True) as tape:
            one, two = tf.reduce_sum(a * x), tf.reduce_sum(b * x)
        first.apply(tape.gradient(one, [a]), [a])
        first.apply(tape.gradient(two, [b]), [b])

    def structure() -> None:
        with tape_class(watch_accessed_variables=False) as tape:
            tape.watch(a)
            loss = tf.reduce_sum(a * x) + tf.reduce_sum(c * x)
            with tape.stop_recording():
                loss_outside = tf.reduce_sum(a)
            loss = loss + loss_outside
        grads = tape.gradient(loss, {"a": [a, a], "c": c})
        assert grads["a"][0] is grads["a"][1] and grads["c"] is None
        first.apply(grads["a"][:1], [a])

    for step in (two_optimizers, changed, twice_one_sum, accumulated, by_turns, persistent):
        for mode in ("eager", "graph"):
            how = refusal(step if mode == "eager" else tf.function(step))
            result(f"{step.__name__}-{mode}", [how, moved((a, a_start), (b, b_start))])
    result("structure", [refusal(structure), moved((a, a_start), (b, b_start))])

    def grows() -> None:
        for used in ([c], [c, d]):
            with tape_class() as tape:
                loss = tf.add_n([tf.reduce_sum(variable * x) for variable in used])
            first.apply(tape.gradient(loss, [c, d]), [c, d])

    result("grows", [refusal(grows), moved((c, np.ones(1)), (d, np.ones(1)))])

    def mixed() -> None:
        first.apply([*gradients(tape_class, a), *gradients(tf.GradientTape, b)], [a, b])

    def local_after_tape() -> None:
        gradients(tape_class, a)
        first.apply(gradients(tf.GradientTape, a), [a])

    def sum_all_reduced() -> None:
        (grad,) = gradients(tf.GradientTape, c)
        context = tf.distribute.get_replica_context()
        first.apply([context.all_reduce(tf.distribute.ReduceOp.SUM, grad)], [c])

    def scaled(scale: Any, *, is_slow: bool) -> Any:
        """The sum over the workers of x * scale, contributed late where `is_slow`."""
        factor = tf.constant([x]) * scale
        if is_slow:
            product = tf.fill((500, 500), factor[0] * 0.0)
            for _ in range(30):
                product = tf.matmul(product, product)
            factor += tf.reduce_sum(product)
        with tape_class() as tape:
            loss = tf.reduce_sum(a * factor)
        return tape.gradient(loss, [a])[0][0] / total

    @tf.function
    def two_passes() -> list[Any]:
        is_chief = strategy.rank == 0
        return [scaled(1.0, is_slow=is_chief), scaled(10.0, is_slow=not is_chief)]

    @tf.function
    def passes_of_a_loop() -> Any:
        found = tf.TensorArray(tf.float32, 4)
        for at in tf.range(4):
            scale = tf.cast(at, tf.float32)
            if (at + strategy.rank) % 2 == 0:
                share = scaled(scale, is_slow=True)
            else:
                share = scaled(scale, is_slow=False)
            found = found.write(at, share)
        return found.stack()

    for passes in (two_passes, passes_of_a_loop):
        result(passes.__name__, [float(share) for share in strategy.run(passes)])

    def second_derivative() -> Any:
        with tf.GradientTape() as outer:
            (grad,) = gradients(tape_class, a)
        return outer.gradient(grad, a)

    def of_a_tensor() -> Any:
        constant = tf.constant(2.0)
        with tape_class() as tape:
            tape.watch(constant)
            loss = constant * constant
        return tape.gradient(loss, constant)

    def used_up() -> None:
        with tape_class() as tape:
            loss = tf.reduce_sum(a)
        tape.gradient(loss, [a])
        tape.gradient(loss, [a])

    def jacobian() -> None:
        with tape_class() as tape:
            loss = a * a
        tape.jacobian(loss, a)

    for step in (mixed, second_derivative, of_a_tensor, used_up, jacobian):
        result(step.__name__, refusal(step))
    result("mixed_in_graph", refusal(tf.function(mixed)))
    result("all_reduced", refusal(tf.function(sum_all_reduced)))
    escaped = tf.function(functools.partial(gradients, tape_class, a))
    result("applied_elsewhere", refusal(lambda: first.apply(escaped(), [a])))
    strategy.run(by_turns)  # Nothing waits for an optimizer any more.
    result("local_after_tape", refusal(local_after_tape))
    for where, scope in (("in_scope", strategy.scope), ("outside", contextlib.nullcontext)):
        try:
            with scope():
                tape_class()
            result(where, "accepted")
        except poseidon_tf.ConfigError as failure:
            result(where, str(failure))


def break_a_step() -> None:
    """Rank 0's second backward pass fails between two gradients, and rank 0 does not end."""
    with strategy.scope():
        low = tf.Variable(tf.ones((4, 4)), name="low")
        top = tf.Variable(tf.ones((4, 4)), name="top")
    calls = itertools.count()

    @tf.custom_gradient
    def breaks(x: Any) -> Any:
        def backward(upstream: Any) -> Any:
            if next(calls) == 1 and strategy.rank == 0:
                raise ArithmeticError("broken on purpose")
            return upstream

        return tf.identity(x), backward

    def step() -> None:
        with tape_class() as tape:
            hidden = tf.identity(tf.identity(breaks(tf.matmul(tf.ones((2, 4)), low))))
            loss = tf.reduce_sum(tf.matmul(tf.identity(tf.identity(hidden)), top))
        tape.gradient(loss, [low, top])

    result("first", refusal(step))
    result("second", refusal(step))
    result("third", refusal(step))


if "break" in sys.argv:
    break_a_step()
    sys.exit()
for in_graph in (False, True):
    mode = "graph" if in_graph else "eager"
    train(mode, in_graph=in_graph)
    train(f"{mode}-clipped", in_graph=in_graph, change=clipped)
train("left-out", in_graph=False, unused_once=True)
if not IS_ALONE:
    plan = strategy.plan
    assert plan is not None
    result(
        "schemes", sorted({str(v.scheme) for v in plan.variables if v.name == "net/first/kernel"})
    )
    refusals()
