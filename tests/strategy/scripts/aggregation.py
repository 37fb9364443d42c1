"""Variables that replicas assign their own values to: synchronization and aggregation.

Runs under `MirroredStrategy` too, which is the reference. Arguments: "mirrored" or "poseidon", and
the number of this process's replicas.
"""

import itertools
import sys
from typing import Any

import tensorflow as tf
from devices import logical_cpus
from report import result

from poseidon_tf import ConfigError, PoseidonStrategy

STEPS = 2
SYNCHRONIZATIONS = ("AUTO", "ON_READ")  # AUTO is ON_WRITE.
AGGREGATIONS = ("NONE", "SUM", "MEAN", "ONLY_FIRST_REPLICA")


def numbers(tensors: Any) -> list[float]:
    return [float(each) for each in tensors]


def assigned(strategy: Any, synchronization: str, aggregation: str, traced: bool) -> Any:
    """What two steps of assignments leave, in and out of the replicas; or the error."""
    with strategy.scope():
        variable = tf.Variable(
            1.0,
            trainable=False,
            synchronization=tf.VariableSynchronization[synchronization],
            aggregation=tf.VariableAggregation[aggregation],
        )

    def replica_step() -> Any:
        context = tf.distribute.get_replica_context()
        own = tf.cast(context.replica_id_in_sync_group, tf.float32) + 1.0
        variable.assign(2.0 * own)
        before = variable.read_value()
        variable.assign_add(10.0 * own)
        variable.assign_sub(own)
        return before, variable.read_value()

    def step() -> Any:
        return strategy.run(replica_step)

    if traced:
        step = tf.function(step)
    inside = []
    for _ in range(STEPS):
        before, after = step()
        local = strategy.experimental_local_results
        inside.append([numbers(local(before)), numbers(local(after))])
    found = {"inside": inside, "components": numbers(strategy.experimental_local_results(variable))}
    if synchronization != "ON_READ" or aggregation != "NONE":
        found["read"] = float(variable.read_value())
        found["numpy"] = float(variable.numpy())
    # All workers ask together for what the replicas hold.
    own = strategy.run(lambda: tf.identity(variable.read_value()))
    found["asked"] = float(strategy.reduce("SUM", own, axis=None))
    return found


def across(strategy: Any, synchronization: str, aggregation: str) -> Any:
    """What an assignment outside of the replicas leaves in each of them."""
    with strategy.scope():
        variable = tf.Variable(
            1.0,
            trainable=False,
            synchronization=tf.VariableSynchronization[synchronization],
            aggregation=tf.VariableAggregation[aggregation],
        )
    variable.assign(12.0)
    components = numbers(strategy.experimental_local_results(variable))
    return [components, float(variable.read_value())]


def counted(strategy: Any) -> Any:
    """A counter that all replicas advance alike, one that adds up their ids, and one too many."""
    with strategy.scope():
        alike = tf.Variable(
            0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, trainable=False
        )
        rows = tf.Variable(0, aggregation=tf.VariableAggregation.SUM, trainable=False)

    @tf.function
    def step() -> None:
        def replica_step() -> None:
            context = tf.distribute.get_replica_context()
            alike.assign_add(1)
            rows.assign_add(context.replica_id_in_sync_group + 1)

        strategy.run(replica_step)

    for _ in range(STEPS):
        step()

    try:
        with strategy.scope():
            tf.Variable(0, aggregation=tf.VariableAggregation.MEAN, trainable=False)
        error = ""
    except ValueError as failure:
        error = str(failure)
    return [int(alike.numpy()), int(rows.numpy()), error]


def first_of(strategy: Any, dtype: tf.DType, traced: bool) -> Any:
    """What replicas hold that have assigned the parity of their id, where the first one counts."""
    with strategy.scope():
        variable = tf.Variable(
            tf.cast(0, dtype),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def replica_step() -> None:
        context = tf.distribute.get_replica_context()
        variable.assign(tf.cast((context.replica_id_in_sync_group + 1) % 2, dtype))

    def step() -> None:
        strategy.run(replica_step)

    (tf.function(step) if traced else step)()
    return numbers(
        tf.cast(each, tf.float32) for each in strategy.experimental_local_results(variable)
    )


def text_of_first(strategy: Any) -> str:
    """What assigning a text is answered."""
    with strategy.scope():
        variable = tf.Variable(
            "", trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
    try:
        strategy.run(lambda: variable.assign(tf.constant("a")))
    except ConfigError as refusal:
        return str(refusal)
    return ""


def main() -> None:
    way, num_replicas = sys.argv[1], int(sys.argv[2])
    devices = logical_cpus(num_replicas)
    if way == "mirrored":
        strategy: Any = tf.distribute.MirroredStrategy(devices)
    else:
        strategy = PoseidonStrategy(devices=devices)
    for synchronization, aggregation in itertools.product(SYNCHRONIZATIONS, AGGREGATIONS):
        name = f"{synchronization}/{aggregation}"
        for traced in (False, True):
            kind = "traced" if traced else "eager"
            result(f"{name}/{kind}", assigned(strategy, synchronization, aggregation, traced))
        if (synchronization, aggregation) != ("ON_READ", "NONE"):
            result(f"{name}/across", across(strategy, synchronization, aggregation))
    for dtype, traced in itertools.product((tf.bool, tf.int8, tf.float16), (False, True)):
        kind = "traced" if traced else "eager"
        result(f"first/{dtype.name}/{kind}", first_of(strategy, dtype, traced))
    result("text", text_of_first(strategy) if way == "poseidon" else "")
    result("counted", counted(strategy))


if __name__ == "__main__":
    main()
