"""How long rank 0 expects a step to take, for a plan by time: the same on all workers.

When a plan is made no step has been made yet. The links have been measured, and how fast devices
multiply; what a step multiplies is in its trace.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.planner import Machines, Outlook, Sizes, Timeline, VariableSpec
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.graph.work import shares_of_trace

_log = logging.getLogger("poseidon_tf")


class TracedStep(NamedTuple):
    """What a step looks like on this worker where its gradients have just been made.

    Attributes:
      graph: in which it is traced; None where it is run eagerly.
      rows: of a replica's batch; None where they are not known.
      variables, gradients: in order.
    """

    graph: Any
    rows: int | None
    variables: Sequence[Any]
    gradients: Sequence[Any]


@final
class Foresight:
    """Of one worker.

    Args:
      machines: as all workers have measured them together lately.
      step_s: of one worker alone, as the user has it; None to be worked out.
      is_across: whether updates are made at the beginning of the next step.
    """

    def __init__(
        self,
        worker: Worker,
        machines: Callable[[], Machines],
        *,
        step_s: float | None,
        is_across: Callable[[], bool],
    ) -> None:
        self._worker, self._step_s, self._is_across = worker, step_s, is_across
        self._machines = machines
        self.sizes: Sizes | None = None  # Of the job's first plan, and so of all.

    def agree(self, specs: Sequence[VariableSpec], step: TracedStep) -> Outlook | None:
        """Rank 0's outlook on a step with these variables; None where it cannot tell.

        Raises:
          PoseidonError: someone did not come in time, or the job failed.
        """
        own = self._foreseen(specs, step) if self._worker.rank == 0 else {}
        what = "plan by the time that rank 0's step takes (plan_by='time')"
        first, *_ = self._worker.gather(what, json.dumps(own).encode())
        told = json.loads(first)
        if not told:
            if self._worker.rank == 0:
                _log.warning(
                    "plan_by='time' needs a step that TensorFlow traces, whose rows are known and "
                    "which multiplies something; these gradients are planned by bytes"
                )
            return None
        if len(told["needed"]) != len(specs) or len(told["exists"]) != len(specs):
            raise ProtocolError(f"rank 0 foresees other variables than these {len(specs)}")
        compute_s = float(told["compute_s"])

        def by_name(parts: Sequence[float]) -> Mapping[str, float]:
            return {
                spec.name: float(part) * compute_s for spec, part in zip(specs, parts, strict=True)
            }

        return Outlook(
            timeline=Timeline(compute_s, by_name(told["exists"]), by_name(told["needed"])),
            machines=self._machines(),
            across_step=bool(told["across_step"]),
        )

    def _foreseen(self, specs: Sequence[VariableSpec], step: TracedStep) -> dict[str, Any]:
        """What rank 0 tells; empty where it knows nothing."""
        rows = step.rows
        if rows is None:  # A factor that has rows in its own shape leaves nothing open.
            known = [spec.rows for spec in specs if spec.rows is not None]
            rows = max(known, default=0) // self._worker.num_replicas or None
        if step.graph is None or rows is None:
            return {}
        names = [str(at) for at in range(len(step.variables))]
        shares = shares_of_trace(
            step.graph,
            dict(zip(names, step.variables, strict=True)),
            dict(zip(names, step.gradients, strict=True)),
            rows=rows,
        )
        speed = self._machines().flops_per_s
        compute_s = self._step_s or (shares.flops / speed if speed else 0.0)
        if not 0 < compute_s < math.inf:
            return {}
        return {
            "compute_s": compute_s,
            "needed": [shares.needed[name] for name in names],
            "exists": [shares.exists[name] for name in names],
            "across_step": self._is_across(),
        }
