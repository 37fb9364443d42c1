"""Custom loops in which every worker draws first values of its own, and who shares rank 0's then.

Argument: the number of local replicas.
"""

import hashlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from devices import logical_cpus
from report import result

import poseidon_tf

ROWS, RATE = 8, 0.1


class Warned(logging.Handler):
    """Collects what the package warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


warned = Warned()
logging.getLogger("poseidon_tf").addHandler(warned)
strategy = poseidon_tf.PoseidonStrategy(devices=logical_cpus(int(sys.argv[1])))
X = np.random.default_rng(4).normal(size=(ROWS, 3)).astype("float32")
Y = np.random.default_rng(5).normal(size=(ROWS, 2)).astype("float32")


def own_rows(context: Any) -> tuple[tf.Tensor, tf.Tensor]:
    share, at = ROWS // context.num_replicas_in_sync, context.replica_id_in_sync_group
    rows = slice(at * share, (at + 1) * share)
    return tf.constant(X[rows]), tf.constant(Y[rows])


# By component, as a replica takes them.
PARTS = [
    strategy.experimental_distribute_values_from_function(lambda c, at=at: own_rows(c)[at])
    for at in range(2)
]


def net(*, units: int = 2, inputs: int = 3, built: bool = True) -> Any:
    layers = [keras.layers.Dense(units, use_bias=False)]
    return keras.Sequential([keras.Input((inputs,)), *layers] if built else layers)


def digest(*models: Any) -> str:
    weights = [weight for model in models for weight in model.get_weights()]
    return hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest()


def update(model: Any, optimizer: Any, tape_class: Any, features: Any, y: Any) -> None:
    with tape_class() as tape:
        loss = tf.reduce_sum(tf.square(model(features) - y)) / ROWS
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, variables), variables)


def eager() -> dict[str, Any]:
    """One step each of a model with TensorFlow's tape and one with ours, behind a frozen layer."""
    with strategy.scope():
        frozen, first, second = net(units=3), net(), net()
        frozen.trainable = False
        optimizers = [keras.optimizers.SGD(RATE) for _ in range(2)]
    models = frozen, first, second
    before = [model.get_weights()[0].tolist() for model in models]

    def step(x: Any, y: Any) -> None:
        features = frozen(x)
        update(first, optimizers[0], tf.GradientTape, features, y)
        update(second, optimizers[1], poseidon_tf.GradientTape, features, y)

    strategy.run(step, args=PARTS)
    after = [model.get_weights()[0].tolist() for model in models]
    return {"before": before, "after": after, "digest": digest(*models)}


def adversaries() -> dict[str, Any]:
    """A critic's first step, which uses a generator and a target network too."""
    with strategy.scope():
        critic, generator, target = net(), net(units=3), net(units=3)
        optimizer = keras.optimizers.SGD(RATE)
    used = digest(generator, target)

    @tf.function
    def critic_step(x: Any, y: Any) -> None:
        def step(x: Any, y: Any) -> None:
            update(critic, optimizer, tf.GradientTape, generator(x) + target(x), y)

        strategy.run(step, args=(x, y))

    critic_step(*PARTS)
    return {"before": used, "after": digest(generator, target), "digest": digest(critic)}


def others_on_rank_0() -> dict[str, Any]:
    """Rank 0 has a counter in the scope: that is its own, and what an optimizer updates is not."""
    told = len(warned.texts)
    with strategy.scope():
        counters = [tf.Variable(0, dtype=tf.int64)] if strategy.rank == 0 else []
        model = net()
        optimizer = keras.optimizers.SGD(RATE)
    for counter in counters:
        counter.assign_add(5)
    before = digest(model)

    @tf.function
    def step(x: Any, y: Any) -> None:
        update(model, optimizer, tf.GradientTape, x, y)

    strategy.run(step, args=PARTS)
    return {
        "before": before,
        "digest": digest(model),
        "counters": [int(counter.numpy()) for counter in counters],
        "warned": warned.texts[told:],
    }


class Student(keras.Model):
    """Learns from a teacher that it does not track."""

    def __init__(self, teacher: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.teach = net(), [lambda x: teacher(x)]

    def call(self, x: Any) -> Any:
        return self.inner(x)

    def train_step(self, data: Any) -> Any:
        x, _ = data
        update(self, self.optimizer, tf.GradientTape, x, self.teach[0](x))
        return {"loss": tf.zeros([])}


def taught() -> dict[str, Any]:
    """A `fit` whose step uses another network."""
    with strategy.scope():
        teacher = net()
        student = Student(teacher)
        student.compile(keras.optimizers.SGD(RATE))
    before = digest(teacher)
    student.fit(X, Y, batch_size=ROWS, shuffle=False, verbose=0)
    return {"before": before, "after": digest(teacher), "digest": digest(student)}


def too_late() -> str:
    """An eager step that makes its model itself."""
    with strategy.scope():
        model = net(built=False)
        optimizer = keras.optimizers.SGD(RATE)
    try:
        strategy.run(lambda x, y: update(model, optimizer, tf.GradientTape, x, y), args=PARTS)
    except poseidon_tf.PlanError as failure:
        return str(failure)
    return "accepted"


result("eager", eager())
result("adversaries", adversaries())
result("others_on_rank_0", others_on_rank_0())
result("taught", taught())
result("too_late", too_late())
