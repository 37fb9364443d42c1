"""A `tf.distribute.Strategy` over workers that have already found each other.

`launch` finds them; the public `PoseidonStrategy` is this class together with that.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from poseidon_tf.coordinator.messages import StopOffer
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import ClusterSpec, Plan
from poseidon_tf.session.gathers import Take
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.preemption import Preempted
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.data.batches import BatchSizes
from poseidon_tf.strategy.data.shares import Shares, without_empty
from poseidon_tf.strategy.drift import DriftGuard
from poseidon_tf.strategy.extended import PoseidonExtended
from poseidon_tf.strategy.gradients.exchange import GradientExchange, unique_names
from poseidon_tf.strategy.gradients.first_values import AgreedValues
from poseidon_tf.strategy.options import Options
from poseidon_tf.strategy.tape.marks import TapeMarks
from poseidon_tf.strategy.tape.sums import TapeSums
from poseidon_tf.strategy.values.reductions import joined_replicas, of_each_replica

_log = logging.getLogger("poseidon_tf")


class ClusterStrategy(tf.distribute.Strategy):  # type: ignore[misc]
    """Synchronous data-parallel training over the workers that `worker` is connected to.

    Args:
      devices: one for each replica of this worker.
    """

    # Strategies of one process whose collectives share keys fail with wrong shapes.
    _key_bases = itertools.count(0, 1_000_000)

    def __init__(
        self,
        worker: Worker | None,
        cluster: ClusterSpec,
        options: Options,
        *,
        arithmetic: Sequence[Mapping[str, Any]],
        announce: Callable[[Plan], None],
        devices: Sequence[str],
    ) -> None:
        self._collective_key_base = next(self._key_bases)
        self._worker = worker
        self._batches = BatchSizes(options.rows_per_step)
        self.clips_sums = options.clip == "sum"
        self.writes_on_all = options.write_on == "all"
        self.methods_left_out: set[str] = set()  # That wrote nothing here, and said so.
        self.shares = Shares()
        self.drift = DriftGuard(
            every_steps=options.drift_check_steps,
            num_replicas=len(devices),
            gather=(lambda what, own: [own]) if worker is None else worker.gather,
            last_step=(lambda: -1) if worker is None else worker.last_step,
            fail=(lambda error: error) if worker is None else worker.session.fail_together,
            warn=_log.warning if self.rank == 0 else _log.debug,
            workers=WorkerNames() if worker is None else worker.names,
        )
        self._gradients: GradientExchange | None = None
        self.tape_sums: TapeSums | None = None
        if worker is not None:
            self._first_values = AgreedValues(worker)
            self._gradients = GradientExchange(
                worker,
                cluster,
                options,
                arithmetic=arithmetic,
                batches=self._batches,
                shares=self.shares,
                first_values=self._first_values,
                announce=announce,
            )
            self.numeric_checks = self._gradients.checks
            self.tape_sums = TapeSums(self._gradients, self._sum_over_all, TapeMarks(worker.gather))
        extended = PoseidonExtended(
            self,
            devices=devices,
            worker=worker,
            batches=self._batches,
            shares=self.shares,
        )
        super().__init__(extended)

    @property
    def rank(self) -> int:
        """This worker's rank; rank 0 is the chief, who saves and reports."""
        return self._worker.rank if self._worker else 0

    @property
    def num_workers(self) -> int:
        """P1, the number of workers."""
        return self._worker.num_workers if self._worker else 1

    @property
    def plan(self) -> Plan | None:
        """How each gradient travels; None before the first step and with one worker."""
        return self._gradients.plan if self._gradients else None

    def statistics(self) -> Statistics:
        """What this worker has sent, received and waited for until now, as a frozen object."""
        return self._worker.statistics() if self._worker else Statistics()

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
        self.drift.check(variables)

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
        if not tf.executing_eagerly() or of_replica() is not None:
            raise ConfigError(
                "barrier waits where the program calls it; call it outside of tf.function and of "
                "strategy.run"
            )
        if self._worker is not None:
            self._worker.meet(f"call strategy.barrier({name!r})")

    @property
    def weighs_samples(self) -> bool:
        """Whether shares of a batch count by their rows."""
        return self._gradients is not None and self._gradients.weighs_samples

    def sum_gradients(
        self, optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]
    ) -> list[tf.Tensor]:
        """The gradients summed over all replicas; see `GradientExchange.sum`."""
        assert self._gradients is not None and self.tape_sums is not None
        if self.tape_sums.marks.are_sums(unique_names(variables), gradients, variables):
            self._first_values.agree_on_optimizer(optimizer)
            return list(gradients)
        return self._sum_over_all(optimizer, gradients, variables)

    def _sum_over_all(
        self, optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]
    ) -> list[tf.Tensor]:
        exchange = self._gradients
        assert exchange is not None, "one worker has nothing to sum"
        if not self.extended.joins_replicas_eagerly:
            return exchange.sum(optimizer, gradients, variables)
        rows = self.shares.rows_to_check()
        own = [without_empty(rows, gradient) for gradient in gradients]

        def merged(_: Any, *shares: Any) -> list[tf.Tensor]:
            count = self.extended.num_local_replicas
            joined = [joined_replicas(of_each_replica(each, count)) for each in shares]
            return exchange.sum(optimizer, joined, variables)

        # Eager replicas run one after the other: the last one brings what all have.
        sums: list[tf.Tensor] = tf.distribute.get_replica_context().merge_call(
            merged, args=tuple(own)
        )
        return sums

    def record_applied(self, variables: Sequence[Any]) -> None:
        """Note for the timeline that `variables` have been updated."""
        assert self._gradients is not None, "one worker has no timeline"
        self._gradients.record_applied(variables)

    def agree_on_first_values(self, variables: Sequence[Any], *, what: str) -> None:
        """Give `variables` rank 0's values; all workers call it together."""
        self._first_values.agree(variables, what=what)

    def agree_on_new_values(self, variables: Sequence[Any], *, what: str) -> None:
        """The same for those of `variables` that were never agreed on; talks only if there are."""
        self._first_values.agree_on_new(variables, what=what)

    def gather_bytes(self, what: str, payload: bytes) -> list[bytes]:
        """Every worker's `payload`, in rank order; all workers call it together."""
        assert self._worker is not None, "one worker has nobody to gather from"
        return self._worker.gather(what, payload)

    def raise_failure(self) -> None:
        """Raise the error that the job has failed with, if it has."""
        if self._worker is not None and (failure := self._worker.session.failure) is not None:
            raise failure

    def gather_stream(
        self, what: str, num_bytes: int, content: Iterable[bytes | memoryview], take: Take
    ) -> None:
        """The same for what is too long to be held as a whole; see `Worker.gather_stream`."""
        assert self._worker is not None, "one worker has nobody to gather from"
        self._worker.gather_stream(what, num_bytes, content, take)

    def advance(self, event: Callable[[Stopping], StopOffer | None]) -> bool:
        """Tell where this worker is in its training; whether all workers stop here."""
        assert self._worker is not None, "one worker stops by itself"
        return self._worker.advance(event)

    @property
    def stopping(self) -> Stopping:
        """Where this worker is in its training, to be read."""
        assert self._worker is not None, "one worker stops by itself"
        return self._worker.coordinator.stopping

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
        if self.num_workers == 1:
            return False
        assert self._worker is not None
        preemption = self._worker.preemption
        if not preemption.is_watched:
            preemption.watch()
        is_due = self.advance(Stopping.end)
        if not is_due and (preemption.reason or self.stopping.is_asked):
            is_due = self.advance(Stopping.want)
        if is_due:
            preemption.heed("another process was asked to end")
            return True
        self.advance(Stopping.begin)
        return False

    def watching_for_preemption(self) -> contextlib.AbstractContextManager[None]:
        """Within: this worker looks now and then at whether a process was asked to end."""
        assert self._worker is not None, "one worker ends by itself"
        return self._worker.preemption.watching()

    @property
    def is_preempted(self) -> bool:
        """Whether this worker knows of a process that was asked to end."""
        assert self._worker is not None, "one worker ends by itself"
        return bool(self._worker.preemption.reason)

    def end_if_preempted(self) -> None:
        """End the program if any worker knows of a process that was asked to end.

        All workers call it together, with nobody in a step.

        Raises:
          Preempted: on all workers.
        """
        assert self._worker is not None, "one worker ends by itself"
        preemption = self._worker.preemption
        everyone = self.gather_bytes("end the epoch of fit", preemption.reason.encode())
        if reasons := [reason.decode() for reason in everyone if reason]:
            preemption.heed(reasons[0])
            raise Preempted(reasons[0])

    @contextlib.contextmanager
    def training(self, batch_size: int | None) -> Iterator[None]:
        """Within: `fit` runs, and the first dataset it distributes is the training data.

        Args:
          batch_size: of all workers together, where `fit` makes the batches; else None.
        """
        if self.tape_sums is not None:
            self.tape_sums.marks.forget()
        with self._batches.fit(None if batch_size is None else -(-batch_size // self.num_workers)):
            yield


def among_others(strategy: Any) -> ClusterStrategy | None:
    """`strategy` if it is ours and there are other workers."""
    is_ours = isinstance(strategy, ClusterStrategy) and strategy.num_workers > 1
    return strategy if is_ours else None


def of_replica() -> ClusterStrategy | None:
    """Our strategy, where a replica of it is running or being traced and there are others."""
    strategy = among_others(tf.distribute.get_strategy())
    return None if tf.distribute.in_cross_replica_context() else strategy


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
