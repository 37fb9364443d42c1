"""What a worker has because there are others: one part for each thing that they do together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from poseidon_tf.coordinator.status import Status
from poseidon_tf.planner import ClusterSpec, Machines, Measured, Plan
from poseidon_tf.session.probe import Probe
from poseidon_tf.session.reporting import Reporter
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.joint import JointData
from poseidon_tf.strategy.drift import DriftGuard
from poseidon_tf.strategy.gradients.exchange import GradientExchange
from poseidon_tf.strategy.gradients.first_values import AgreedValues
from poseidon_tf.strategy.gradients.foresight import Foresight
from poseidon_tf.strategy.gradients.replanning import Replanning
from poseidon_tf.strategy.gradients.sums import GradientSums
from poseidon_tf.strategy.options import Options
from poseidon_tf.strategy.stops import Stops
from poseidon_tf.strategy.tape.marks import TapeMarks
from poseidon_tf.strategy.tape.sums import TapeSums
from poseidon_tf.strategy.updates import Updates
from poseidon_tf.strategy.values.reductions import Reductions
from poseidon_tf.strategy.writing import Writing

_log = logging.getLogger("poseidon_tf")


@final
class Runtime:
    """The parts of a strategy's worker among others; a lone worker's strategy has none.

    Args:
      cluster: how many workers and servers there are.
      arithmetic: by rank, what the bits of a product depend on.
      measured: what all workers have measured as the job started; None if they have not.
      probe: with which they did, to do so again.
      announce: called with each new plan.
      show: shows the user what has changed since.

    Attributes:
      worker: the connections: rank, number of workers and of its replicas, gathers, the failure.
      options: the user's.
      measured: as above, and lately where plans are by time.
      data: rows of batches and shares, and the one end of a dataset.
      gradients: the plan, and a route for each gradient.
      replanning: makes plans by time anew; None where there are none.
      sums: of the gradients that an optimizer or a tape is given.
      updates: whether variables are updated in the step, or at the beginning of the next.
      tape: sums for `poseidon_tf.GradientTape`.
      first_values: which variables have been given rank 0's.
      reductions: of values that the program or a layer reduces by itself.
      drift: compares what all workers must hold alike.
      stops: when all workers stop together.
      writing: whether this worker writes files.
      reporter: tells the coordinator how this worker is doing.
      status: how the job is doing; None where this is not rank 0.
      machines: what links and hosts can do, where somebody has measured that; then the summary of
        a `fit` says what step that lets expect.
    """

    def __init__(
        self,
        worker: Worker,
        cluster: ClusterSpec,
        options: Options,
        *,
        arithmetic: Sequence[Mapping[str, Any]],
        measured: Measured | None = None,
        probe: Probe | None = None,
        announce: Callable[[Plan], None],
        show: Callable[[str], None],
        reporter: Reporter,
        status: Callable[[], Status] | None,
    ) -> None:
        self.reporter, self.status = reporter, status
        self.worker, self.options, self.measured = worker, options, measured
        self.machines: Machines | None = None
        if measured is not None:
            self._renew(measured)
        self.updates = Updates(show)
        foresight = None
        if options.plan_by == "time" and measured is not None:
            foresight = Foresight(
                worker,
                self._machines,
                step_s=options.step_seconds,
                is_across=lambda: self.updates.are_deferred,
            )
        self.data = JointData(worker, rows_per_step=options.rows_per_step)
        self.first_values = AgreedValues(worker)
        self.gradients = GradientExchange(
            worker,
            cluster,
            options,
            arithmetic=arithmetic,
            batches=self.data.batches,
            shares=self.data.shares,
            first_values=self.first_values,
            announce=announce,
            foresight=foresight,
        )
        self.replanning: Replanning | None = None
        if foresight is not None and probe is not None and measured is not None:
            self.replanning = Replanning(
                worker,
                self.gradients,
                probe,
                measured,
                has_step_s=options.step_seconds is not None,
                is_across=lambda: self.updates.are_deferred,
                renew=self._renew,
            )
        marks = TapeMarks(worker.gather)
        self.sums = GradientSums(
            self.gradients,
            self.data.shares,
            self.first_values,
            marks,
            num_replicas=worker.num_replicas,
        )
        self.tape = TapeSums(self.gradients, self.sums.over_all, marks)
        self.reductions = Reductions(worker)
        self.drift = DriftGuard(
            every_steps=options.drift_check_steps,
            num_replicas=worker.num_replicas,
            gather=worker.gather,
            last_step=worker.last_step,
            fail=worker.session.fail_together,
            warn=_log.warning if worker.rank == 0 else _log.debug,
            workers=worker.names,
        )
        self.stops = Stops(worker)
        self.writing = Writing(worker.rank, options.write_on)

    @property
    def replica(self) -> int:
        """The id, among those of all workers, of the replica that is running."""
        return self.worker.rank * self.worker.num_replicas + tf_internals.replica_id()

    def _renew(self, measured: Measured) -> None:
        self.measured = measured
        self.machines = measured.machines(devices=self.worker.num_replicas)

    def _machines(self) -> Machines:
        assert self.machines is not None, "nothing was measured"
        return self.machines
