"""A `tf.distribute.Strategy` over workers that have already found each other.

`launch` finds them; the public `PoseidonStrategy` is this class together with that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import Plan
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.strategy.drift import DriftGuard
from poseidon_tf.strategy.extended import PoseidonExtended
from poseidon_tf.strategy.runtime import Runtime


class ClusterStrategy(tf.distribute.Strategy):  # type: ignore[misc]
    """Synchronous data-parallel training over the workers that `runtime` is connected to.

    Its public names are for users; hooks and the like ask `runtime_of` for everything else.

    Args:
      runtime: None where one worker trains alone.
      devices: one for each replica of this worker.
    """

    # Strategies of one process whose collectives share keys fail with wrong shapes.
    _key_bases = itertools.count(0, 1_000_000)

    def __init__(self, runtime: Runtime | None, *, devices: Sequence[str]) -> None:
        self._collective_key_base = next(self._key_bases)
        self._runtime = runtime
        # Replicas of a lone worker can be compared, too.
        self._drift = runtime.drift if runtime else DriftGuard(num_replicas=len(devices))
        super().__init__(PoseidonExtended(self, devices=devices, runtime=runtime))

    @property
    def rank(self) -> int:
        """This worker's rank; rank 0 is the chief, who saves and reports."""
        return self._runtime.worker.rank if self._runtime else 0

    @property
    def num_workers(self) -> int:
        """P1, the number of workers."""
        return self._runtime.worker.num_workers if self._runtime else 1

    @property
    def plan(self) -> Plan | None:
        """How each gradient travels; None before the first step and with one worker."""
        return self._runtime.gradients.plan if self._runtime else None

    def statistics(self) -> Statistics:
        """What this worker has sent, received and waited for until now, as a frozen object."""
        if self._runtime is None:
            return Statistics()
        updates, status = self._runtime.updates.statistics(), self._runtime.status
        told = {} if status is None else {m.rank: figures for m, figures in status().summing}
        found, measured = self._runtime.worker.statistics(), self._runtime.measured
        return replace(found, updates=updates, told_by_servers=told, probe=measured)

    def check_drift(self, variables: Sequence[Any]) -> None:
        """Compare `variables` on all workers and replicas, by digest; all workers call it together.

        `fit` and `train_on_batch` do so by themselves, see `drift_check_steps`; a custom loop may.

        Args:
          variables: trainable ones and optimizers', on all workers in the same order; not
            metrics or others that each worker keeps to itself.

        Raises:
          ConfigError: it is called while a function is traced.
          DriftError: on all workers: names the first variable that differs and who holds what.
        """
        self._drift.check(variables)

    def barrier(self, name: str = "") -> None:
        """Wait until every worker has called it; with one worker it does nothing.

        What a worker has done before, such as saving a file on rank 0, is done for all of them
        after it::

            if strategy.rank == 0:
                np.save(path, table)
            strategy.barrier("table saved")
            table = np.load(path)

        Args:
          name: of the place in the program, for errors; the same on all workers.

        Raises:
          ConfigError: it is called in a replica, or while a function is traced.
          StepTimeout: some worker did not come in `Deadlines.step_s`; names it.
          PoseidonError: whatever else the job failed with meanwhile.
        """
        if not tf.executing_eagerly() or runtime_of_replica() is not None:
            raise ConfigError(
                "barrier waits where the program calls it; call it outside of tf.function and of "
                "strategy.run"
            )
        if self._runtime is not None:
            self._runtime.worker.meet(f"call strategy.barrier({name!r})")

    def stop_requested(self) -> bool:
        """Whether a custom loop has to end here, because some process was asked to end (SIGTERM).

        Every worker calls it once per step, between steps; all get the same answer at the same
        step. After True save what must be saved, on rank 0, and end with ``sys.exit(143)``. As
        long as nobody was asked to end, it sends nothing. From the first call on, a first SIGTERM
        does nothing else; a second one ends the process. In `fit` nobody needs this.

        Raises:
          PoseidonError: some worker did not call it in time (`Deadlines.step_s`), or the job
            failed.
        """
        return self._runtime is not None and self._runtime.stops.between_steps()


def runtime_of(strategy: Any) -> Runtime | None:
    """What `strategy` has if it is ours and there are other workers; else None."""
    return strategy._runtime if isinstance(strategy, ClusterStrategy) else None


def runtime_of_replica() -> Runtime | None:
    """What our strategy has, where a replica of it is running or being traced."""
    runtime = runtime_of(tf.distribute.get_strategy())
    return None if tf.distribute.in_cross_replica_context() else runtime


def local_devices() -> list[str]:
    """The devices that this worker's replicas run on: its accelerators, else the CPU."""
    accelerators = [
        device.name for kind in ("GPU", "TPU") for device in tf.config.list_logical_devices(kind)
    ]
    return accelerators or ["/device:CPU:0"]


def checked_devices(devices: Sequence[str]) -> list[str]:
    """`devices` as the user gives them, one for each replica, with their full names.

    Raises:
      ConfigError: there is none, one comes twice, or this process does not have it.
    """
    known = {device.name for device in tf.config.list_logical_devices()}
    names = []
    for device in devices:
        try:
            spec = tf.DeviceSpec.from_string(device if "/" in device else f"/device:{device}")
        except ValueError as failure:
            raise ConfigError(f"devices: {device!r} is not a device: {failure}") from failure
        name = f"/device:{spec.device_type}:{spec.device_index or 0}"
        if name not in known:
            raise ConfigError(
                f"devices: this process has no {device!r}; it has {', '.join(sorted(known))}"
            )
        names.append(name)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"devices must name one or more different devices, got {list(devices)}")
    return names
