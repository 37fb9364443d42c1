"""Compares what all workers must hold alike with what they hold, by a short digest per variable.

A digest is 8 bytes of BLAKE2b: 20 million float32 take 0.09 s, and no copy on the CPU. With
several replicas on one worker each has a digest of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError, DriftError, PoseidonError
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.strategy import tf_internals

_log = logging.getLogger("poseidon_tf")
_NOBODY = WorkerNames()
_DIGEST_BYTES = 8
_REMEDY = (
    "Something changed it besides the sums that all workers apply: an assignment or a callback on "
    "one of them, or arithmetic that differs, such as another CPU or oneDNN setting for a "
    "variable that travels as factors; schemes={'<its name>': 'ps'} keeps products out of it"
)


def digests(variables: Sequence[Any], *, num_replicas: int) -> bytes:
    """Of each of this worker's replicas in turn, `_DIGEST_BYTES` for each variable.

    Args:
      variables: of TensorFlow or Keras; one that has a single value stands for all replicas.
    """
    parts = [tf_internals.components(variable) for variable in variables]
    return b"".join(
        _digest(part[min(replica, len(part) - 1)])
        for replica in range(num_replicas)
        for part in parts
    )


def _digest(variable: Any) -> bytes:
    # An array of an eager tensor on the CPU is a view of it; hashing needs one end to end.
    values = np.ascontiguousarray(variable.read_value())
    content = values.reshape(-1).view(np.uint8).data
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _columns(
    everyone: Sequence[bytes], *, num_variables: int, num_replicas: int
) -> list[list[bytes]]:
    """By variable, the digest of every replica of every worker."""
    return [
        [
            theirs[(replica * num_variables + at) * _DIGEST_BYTES :][:_DIGEST_BYTES]
            for theirs in everyone
            for replica in range(num_replicas)
        ]
        for at in range(num_variables)
    ]


def differing(everyone: Sequence[bytes], *, num_variables: int, num_replicas: int) -> list[int]:
    """Which variables are not the same everywhere.

    Args:
      everyone: by rank, its `digests`.
    """
    columns = _columns(everyone, num_variables=num_variables, num_replicas=num_replicas)
    return [at for at, column in enumerate(columns) if len(set(column)) > 1]


def difference(
    names: Sequence[str],
    everyone: Sequence[bytes],
    *,
    num_replicas: int,
    workers: WorkerNames,
) -> str:
    """The first variable that is not the same everywhere, and who holds what; empty if all are.

    Args:
      names: of the variables.
      everyone: by rank, its `digests`.
      workers: how they are named.
    """
    expected = len(names) * num_replicas * _DIGEST_BYTES
    for rank, theirs in enumerate(everyone):
        if len(theirs) != expected:
            values = len(theirs) // _DIGEST_BYTES // num_replicas
            return (
                f"{len(names)} variables were compared here and {values} on "
                f"{workers.one(rank)}; give "
                "all workers the same"
            )
    columns = _columns(everyone, num_variables=len(names), num_replicas=num_replicas)
    found = differing(everyone, num_variables=len(names), num_replicas=num_replicas)
    if not found:
        return ""
    first = columns[found[0]]
    holders = []
    for index in range(len(first)):
        rank, replica = divmod(index, num_replicas)
        holders.append(workers.one(rank) + f" (replica {replica})" * (num_replicas > 1))
    alike = [who for who, digest in zip(holders, first, strict=True) if digest == first[0]]
    others = [who for who, digest in zip(holders, first, strict=True) if digest != first[0]]
    return (
        f"{names[found[0]]!r} is not the same everywhere: {', '.join(alike)} "
        f"{'holds' if len(alike) == 1 else 'hold'} one value, {', '.join(others)} "
        f"{'does' if len(others) == 1 else 'do'} not hold it; {len(found)} of {len(names)} "
        "variables differ"
    )


@final
class DriftGuard:
    """Counts the steps that all workers have taken together, and compares now and then.

    The defaults are those of a worker that trains alone.

    Args:
      num_replicas: G of this worker, and of all.
      every_steps: how many steps lie between two checks at least; 0 never checks by itself.
      gather: every worker's bytes, in rank order.
      workers: how they are named.
      last_step: the last that this worker has begun.
      fail: ends the job; returns what to raise.
      warn: tells the user what need not end the job.
    """

    def __init__(
        self,
        *,
        num_replicas: int,
        every_steps: int = 0,
        gather: Callable[[str, bytes], list[bytes]] = lambda what, own: [own],
        last_step: Callable[[], int] = lambda: -1,
        fail: Callable[[PoseidonError], PoseidonError] = lambda error: error,
        warn: Callable[[str], None] = _log.warning,
        workers: WorkerNames = _NOBODY,
    ) -> None:
        self._workers, self._warn = workers, warn
        self._told: set[str] = set()  # Variables of layers that differ by now, by their ids.
        self._every_steps, self._num_replicas = every_steps, num_replicas
        self._gather, self._last_step, self._fail = gather, last_step, fail
        self._steps = 0

    def took(
        self,
        steps: int,
        variables: Callable[[], Sequence[Any]],
        *,
        own: Callable[[], Sequence[Any]],
    ) -> None:
        """All workers have taken `steps` more; compares `variables()` if enough have been taken.

        Args:
          own: of layers, which each replica may have assigned as it liked: where they differ, the
            user is told so once for each.

        Raises:
          DriftError: on all workers, if they differ.
        """
        self._steps += steps
        if 0 < self._every_steps <= self._steps:
            self.check(variables(), own=own())

    def check(self, variables: Sequence[Any], *, own: Sequence[Any] = ()) -> None:
        """Compare `variables` now, and layers' `own`, in one message; all workers call it together.

        Raises:
          ConfigError: it is called while a function is traced.
          DriftError: on all workers, if they differ.
        """
        if not tf.executing_eagerly():
            raise ConfigError(
                "check_drift compares the values that variables have now; call it outside of "
                "tf.function"
            )
        self._steps = 0
        own = [v for v in own if tf_internals.variable_id(v) not in self._told]
        count = self._num_replicas
        mine, mine_own = digests(variables, num_replicas=count), digests(own, num_replicas=count)
        everyone = self._gather(
            "compare variables, as fit, train_on_batch and strategy.check_drift do",
            mine + mine_own,
        )
        shared = [theirs[: len(theirs) - len(mine_own)] for theirs in everyone]
        names = [_name(variable) for variable in variables]
        found = difference(names, shared, num_replicas=count, workers=self._workers)
        if found:
            error = DriftError(f"after step {self._last_step()}: {found}. {_REMEDY}")
            raise self._fail(error)
        owned = [theirs[len(mine) :] for theirs in everyone]
        self._tell([own[at] for at in differing(owned, num_variables=len(own), num_replicas=count)])

    def _tell(self, own: Sequence[Any]) -> None:
        """Say once that these variables of layers differ, which TensorFlow's strategies let be."""
        if not own:
            return
        self._told.update(tf_internals.variable_id(variable) for variable in own)
        self._warn(
            f"after step {self._last_step()}: layers have variables of their own that are not the "
            f"same on all replicas: {', '.join(repr(_name(variable)) for variable in own)}. Each "
            "replica goes on with what it has assigned, as under MirroredStrategy, and what is "
            "saved is rank 0's; create them with aggregation='mean', 'sum' or "
            "'only_first_replica' to have them alike"
        )


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
