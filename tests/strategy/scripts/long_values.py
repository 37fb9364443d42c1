"""Values that programs reduce and gather: text, and more than a server takes as one sum.

Argument: the number of this process's replicas.
"""

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from devices import logical_cpus
from replica_values import by_replica
from report import result

import poseidon_tf

LONG = 20 * 1024 * 1024  # float32: 80 MiB.


def words(i: int, *, axis: int = 0) -> np.ndarray:
    """Text of replica `i`: other lengths in all dimensions' elements; nothing on replica 1."""
    shape = [2, 2]
    shape[axis] = 0 if i == 1 else i + 1
    drawn = [b"\x00" * at + f"r{i}-{at}\u00e4".encode() * (at % 3) + b"\x00" for at in range(99)]
    found = np.empty(shape, object)
    found.ravel()[:] = drawn[: found.size]
    return found


def text(strategy: Any) -> dict[str, list[Any]]:
    """By way, what a gather gives, and what it must give."""
    everyone = range(strategy.num_replicas_in_sync)
    found = {}
    for axis in (0, 1):
        own = by_replica(strategy, lambda i, axis=axis: tf.constant(words(i, axis=axis), tf.string))
        expected = np.concatenate([words(i, axis=axis) for i in everyone], axis=axis)

        def gather(value: Any, axis: int = axis) -> Any:
            return strategy.gather(value, axis)

        for way, program in (("eager", gather), ("function", tf.function(gather))):
            gathered = program(own)
            found[f"{way} along {axis}"] = [
                repr(gathered.numpy().tolist()),
                repr(expected.tolist()),
            ]

    def gather_all() -> Any:
        i = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.distribute.get_replica_context().all_gather(
            tf.fill([i + 1], tf.strings.as_string(i)), axis=0
        )

    gathered = strategy.experimental_local_results(strategy.run(tf.function(gather_all)))
    all_of_them = [str(i).encode() for i in everyone for _ in range(i + 1)]
    found["in replicas"] = [
        repr([each.numpy().tolist() for each in gathered]),
        repr([all_of_them] * len(gathered)),
    ]
    return found


def digest(value: Any) -> str:
    return hashlib.sha256(np.asarray(value).tobytes()).hexdigest()


def long(strategy: Any) -> dict[str, list[str]]:
    """By way, the digest of what comes, and of what must come."""
    everyone = range(strategy.num_replicas_in_sync)

    def numbers(i: int) -> np.ndarray:
        return np.arange(LONG, dtype="f") % 1000 + i

    own = by_replica(strategy, lambda i: tf.constant(numbers(i)))
    total = digest(sum(numbers(i) for i in everyone))
    joined = digest(np.concatenate([numbers(i) for i in everyone]))

    def of_any_length(fn: Callable[[Any], Any]) -> Any:
        """`fn` as a function that is traced before the length is known."""
        return tf.function(lambda value: fn(strategy.run(lambda v: v[: _length()], (value,))))

    def add(value: Any) -> Any:
        return strategy.reduce("SUM", value, axis=None)

    def join(value: Any) -> Any:
        return strategy.gather(value, 0)

    def add_in_replicas(value: Any) -> Any:
        context = tf.distribute.get_replica_context
        totals = strategy.run(lambda v: context().all_reduce("SUM", v), (value,))
        return strategy.experimental_local_results(totals)[-1]

    return {
        "sum, eager": [digest(add(own)), total],
        "sum, function": [digest(tf.function(add)(own)), total],
        "sum, any length": [digest(of_any_length(add)(own)), total],
        "sum, in replicas": [digest(tf.function(add_in_replicas)(own)), total],
        "gather, eager": [digest(join(own)), joined],
        "gather, function": [digest(tf.function(join)(own)), joined],
    }


def _length() -> tf.Tensor:
    return tf.random.uniform([], LONG, LONG + 1, tf.int32)


def main() -> None:
    strategy = poseidon_tf.PoseidonStrategy(devices=logical_cpus(int(sys.argv[1])))
    result("text", text(strategy))
    result("long", long(strategy))


if __name__ == "__main__":
    main()
