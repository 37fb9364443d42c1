"""Plans by time are made anew between two epochs of a `fit`, where links or steps have changed.

Rank 0 decides, by what all workers have measured, and tells the others the plan itself. So it does
not matter whether all would come to the same one.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, final

from poseidon_tf.kv.store import MAX_KEYS
from poseidon_tf.planner import Measured, Plan, PlanInTime, computation_s
from poseidon_tf.session.probe import BRIEF, Probe
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.gradients.exchange import GradientExchange

_log = logging.getLogger("poseidon_tf")
_WHAT = "begin an epoch of fit with plan_by='time'"

MOST_TIME = 0.01
"""Of a job, which its measurements may take: each is followed by a hundred times as long."""
LEAST_STEPS = 3
"""Of an epoch, for its steps to say how long one takes."""
MOST_CHANGES = 100
"""Of a job: each leaves routes behind."""
MOST_KEYS = MAX_KEYS // 2
"""Of one server, which keeps those of plans before: a change must not be what a job fails of."""


@final
class Replanning:
    """Of one worker.

    Args:
      measured: by which the first plans are made.
      has_step_s: the user has said what a step takes, so that it is not looked at.
      is_across: whether updates are made at the beginning of the next step.
      renew: called with what all workers have measured anew.
    """

    def __init__(
        self,
        worker: Worker,
        exchange: GradientExchange,
        probe: Probe,
        measured: Measured,
        *,
        has_step_s: bool,
        is_across: Callable[[], bool],
        renew: Callable[[Measured], None],
    ) -> None:
        self._worker, self._exchange, self._probe = worker, exchange, probe
        self._measured, self._has_step_s = measured, has_step_s
        self._is_across, self._renew = is_across, renew
        self._measured_at_s = time.monotonic()
        self._last_steps = self._num_changes = 0
        self._keys: Counter[int] = Counter()  # By server, on rank 0.
        self._counted: set[int] = set()  # Numbers of the plans that are in there.

    def between_epochs(self, variables: Sequence[Any]) -> bool:
        """Look, if it is time to; all workers call it between two steps, with nothing pending.

        Args:
          variables: that are trained.

        Returns:
          Whether steps of some of these have to be traced again, to send by another plan.

        Raises:
          PoseidonError: someone did not come in time, or the job failed.
        """
        plans = self._exchange.plans_in_time(variables)
        mine = {"own_s": self._own_s(), "is_time": self._is_time(plans)}
        everyone = [json.loads(text) for text in self._gather(mine)]
        if not everyone[0]["is_time"]:
            return False
        self._measured = self._measured.renewed(self._probe.measure(effort=BRIEF))
        self._measured_at_s = time.monotonic()
        self._renew(self._measured)
        others = {}
        if self._worker.rank == 0:
            own_s = [float(each["own_s"]) for each in everyone]
            others = self._weighed(plans, max(own_s) if all(own_s) else None)
        told = json.loads(self._gather(others)[0])
        if not told:
            return False
        self._num_changes += 1
        self._exchange.follow({int(at): Plan.from_json(text) for at, text in told.items()})
        return True

    def _gather(self, mine: dict[Any, Any]) -> list[bytes]:
        return self._worker.gather(_WHAT, json.dumps(mine).encode())

    def _is_time(self, plans: dict[int, PlanInTime]) -> bool:
        since_s = time.monotonic() - self._measured_at_s
        is_due = since_s >= self._measured.took_s / MOST_TIME
        return bool(plans) and is_due and self._num_changes < MOST_CHANGES

    def _own_s(self) -> float:
        """What this worker's steps took since the last look without their waiting; 0 if unknown."""
        session = self._worker.session
        num_steps, self._last_steps = session.steps - self._last_steps, session.steps
        times = session.step_times(max(0, num_steps - 1))
        return times.own_s if times.steps >= LEAST_STEPS and not self._has_step_s else 0.0

    def _weighed(self, plans: dict[int, PlanInTime], own_s: float | None) -> dict[int, str]:
        """By number, what to send by from now on where that is another plan, as JSON."""
        machines = self._measured.machines(devices=self._worker.num_replicas)
        others = {}
        for at, each in plans.items():
            if at not in self._counted:
                self._counted.add(at)
                self._keys += _keys_of(each.plan)
            found = each.weigh(
                machines,
                compute_s=own_s and computation_s(own_s, each.plan, each.outlook),
                across_step=self._is_across(),
                fits=lambda plan: (
                    max((self._keys + _keys_of(plan)).values(), default=0) <= MOST_KEYS
                ),
            )
            if found is not None:
                _log.info("%s", found.text())
                if found.plan is not None:
                    self._keys += _keys_of(found.plan)
                    others[at] = found.plan.to_json()
        return others


def _keys_of(plan: Plan) -> Counter[int]:
    """How many it has on each server."""
    return Counter(pair.server for pair in plan.pairs)
