"""Asks something of every public member of a strategy, among two workers.

Argument: "poseidon" or "multiworker", TensorFlow's strategy of several workers.
"""

import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from replica_values import bits, by_replica, numbers, replica, shown
from report import result

ROWS = 8


def batches(strategy: Any, distributed: Any) -> list[Any]:
    return [shown(strategy, batch) for batch in distributed]


def rows_of(context: Any) -> tf.data.Dataset:
    rows = tf.data.Dataset.range(ROWS).batch(2)
    return rows.shard(context.num_input_pipelines, context.input_pipeline_id)


def summed(strategy: Any, value: Any) -> Any:
    """By name, what members give that reduce `value`, which every replica has its own of."""
    extended = strategy.extended
    with strategy.scope():
        return {
            "reduce": bits(strategy.reduce("SUM", value, axis=None)),
            "reduce_to": shown(strategy, extended.reduce_to("SUM", value, "CPU:0")),
            "batch_reduce_to": shown(
                strategy, extended.batch_reduce_to("MEAN", [(value, "CPU:0"), (value, "CPU:0")])
            ),
        }


def probes(strategy: Any) -> dict[str, Callable[[], Any]]:
    """By member, what is asked of it."""
    extended = strategy.extended
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])
    outside = tf.Variable(1.0)
    value = by_replica(strategy, lambda i: numbers(3 * i, (2, 2)))
    rows = tf.data.Dataset.range(ROWS).batch(4)

    def scope() -> Any:
        with strategy.scope():
            made = tf.Variable(1.0)
            return [type(made).__name__, tf.distribute.get_strategy() is strategy]

    def colocated(member: Any) -> list[str]:
        with strategy.scope(), member(variable):
            return [type(tf.Variable(1.0)).__name__]

    def updated() -> Any:
        with strategy.scope():
            extended.update(variable, lambda v, by: v.assign_add(by), args=([1.0, 1.0],))
        return shown(strategy, variable)

    def iterated(make: Callable[..., Any], argument: Any) -> Any:
        iterator = make(argument)
        iterator.initialize()
        return shown(strategy, iterator.get_next())

    return {
        "colocate_vars_with": lambda: colocated(strategy.colocate_vars_with),
        "configure": strategy.configure,
        "distribute_datasets_from_function": lambda: batches(
            strategy, strategy.distribute_datasets_from_function(rows_of)
        ),
        "experimental_distribute_dataset": lambda: batches(
            strategy, strategy.experimental_distribute_dataset(rows)
        ),
        "experimental_distribute_datasets_from_function": lambda: batches(
            strategy, strategy.experimental_distribute_datasets_from_function(rows_of)
        ),
        "experimental_distribute_values_from_function": lambda: shown(strategy, value),
        "experimental_local_results": lambda: len(strategy.experimental_local_results(value)),
        "experimental_run": lambda: shown(strategy, strategy.experimental_run(lambda: tf.ones(2))),
        "extended": lambda: isinstance(extended, tf.distribute.StrategyExtended),
        "gather": lambda: bits(strategy.gather(value, axis=0)),
        "group": lambda: strategy.group(tf.constant(1.0)) is None,
        "make_dataset_iterator": lambda: iterated(strategy.make_dataset_iterator, rows),
        "make_input_fn_iterator": lambda: iterated(strategy.make_input_fn_iterator, rows_of),
        "num_replicas_in_sync": lambda: strategy.num_replicas_in_sync,
        "reduce": lambda: summed(strategy, value)["reduce"],
        "run": lambda: shown(
            strategy,
            strategy.run(lambda v: (replica().all_reduce("SUM", v), v), (value,)),
        ),
        "scope": scope,
        "unwrap": lambda: len(strategy.unwrap(value)),
        "update_config_proto": lambda: str(
            strategy.update_config_proto(tf.compat.v1.ConfigProto())
        ),
        "extended.batch_reduce_to": lambda: summed(strategy, value)["batch_reduce_to"],
        "extended.colocate_vars_with": lambda: colocated(extended.colocate_vars_with),
        "extended.experimental_require_static_shapes": lambda: (
            extended.experimental_require_static_shapes
        ),
        "extended.parameter_devices": lambda: list(extended.parameter_devices),
        "extended.reduce_to": lambda: summed(strategy, value)["reduce_to"],
        "extended.update": updated,
        "extended.value_container": lambda: (
            extended.value_container(strategy.experimental_local_results(variable)[0]) is variable
        ),
        "extended.variable_created_in_scope": lambda: [
            extended.variable_created_in_scope(each) for each in (variable, outside)
        ],
        "extended.worker_devices": lambda: list(extended.worker_devices),
    }


def asked(probe: Callable[[], Any]) -> Any:
    try:
        return {"gives": probe()}
    except Exception as error:
        return {"raises": type(error).__name__, "text": str(error)}


def public(owner: Any) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


def added(owner: Any, base: Any) -> list[str]:
    """Public names that `owner`, a class or an object, has beside those of `base`."""
    return sorted(set(public(owner)) - set(public(base)))


def main() -> None:
    if sys.argv[1] == "poseidon":
        from poseidon_tf import PoseidonStrategy

        strategy: Any = PoseidonStrategy()
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    result(
        "public",
        [
            *public(tf.distribute.Strategy),
            *(f"extended.{name}" for name in public(tf.distribute.StrategyExtended)),
        ],
    )
    base = tf.distribute.MirroredStrategy(["CPU:0"])
    result(
        "added",
        {
            "class": added(type(strategy), tf.distribute.Strategy),
            "object": added(strategy, base),
            "extended": added(strategy.extended, base.extended),
        },
    )
    result("found", {name: asked(probe) for name, probe in probes(strategy).items()})


if __name__ == "__main__":
    main()
