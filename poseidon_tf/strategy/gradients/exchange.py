"""Sums the gradients of a step over all workers, each on its own way and as soon as it exists.

Keys belong to variables, never to a trace: a step that is traced again, on this worker alone or
on all, finds its routes open and talks to nobody. Only variables that were never exchanged
before make the workers agree once more. A gradient that a later trace computes in another way
than was agreed on, such as no longer as one product, is sent whole on the same route.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import PlanError, PoseidonError
from poseidon_tf.planner import ClusterSpec, Plan, PlanInTime, VariableSpec
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.data.batches import BatchSizes
from poseidon_tf.strategy.data.shares import Shares
from poseidon_tf.strategy.gradients.agreement import Agreed, agree_on_plan
from poseidon_tf.strategy.gradients.first_values import AgreedValues
from poseidon_tf.strategy.gradients.foresight import Foresight, TracedStep
from poseidon_tf.strategy.gradients.numeric_checks import NumericChecks
from poseidon_tf.strategy.gradients.open_unit import OpenUnit
from poseidon_tf.strategy.gradients.sample_weights import OpenWeights, SampleWeights, multiplied
from poseidon_tf.strategy.gradients.schemes import open_units
from poseidon_tf.strategy.gradients.sparse_optimizers import why_rows
from poseidon_tf.strategy.graph.describe import Compact, Gradient, describe
from poseidon_tf.strategy.graph.products import source_of
from poseidon_tf.strategy.options import Options

_log = logging.getLogger("poseidon_tf")


@dataclass(frozen=True, slots=True)
class _Contribution:
    """What a replica has to give in a step, and on which units.

    Attributes:
      gradients, compact: by position, as `OpenUnit.exchange` takes them.
      parts: a plain variable for each.
      scale: by which the sums are multiplied; None for not at all.
    """

    units: Sequence[OpenUnit]
    gradients: Sequence[Gradient]
    compact: Mapping[int, Compact]
    parts: Sequence[tf.Variable]
    rows: Any
    check: Any
    scale: tf.Tensor | None


@dataclass(frozen=True, slots=True)
class _Open:
    """Gradients that are sent by one plan."""

    agreed: Agreed
    units: list[OpenUnit]


@final
class GradientExchange:
    """All gradients of one worker.

    Args:
      arithmetic: by rank, what the bits of a product depend on.
      batches: know how many rows a worker's batch has.
      shares: know how many rows a replica's share of the batch has.
      announce: called with each new plan.
      foresight: for plans by time; None for plans by bytes.

    Attributes:
      checks: says which gradients are looked at before they are sent.
    """

    def __init__(
        self,
        worker: Worker,
        cluster: ClusterSpec,
        options: Options,
        *,
        arithmetic: Sequence[Mapping[str, Any]],
        batches: BatchSizes,
        shares: Shares,
        first_values: AgreedValues,
        announce: Callable[[Plan], None],
        foresight: Foresight | None = None,
    ) -> None:
        self._worker = worker
        self._agree = functools.partial(
            agree_on_plan,
            worker,
            cluster=cluster,
            options=options,
            arithmetic=arithmetic,
            foresight=foresight,
        )
        self._batches, self._announce = batches, announce
        self._shares, self._first_values = shares, first_values
        self._sample_weights: SampleWeights | None = None
        if options.loss_weighting == "sample":
            num_replicas = worker.num_workers * worker.num_replicas
            self._sample_weights = SampleWeights(worker, shares, num_replicas=num_replicas)
        self.checks = NumericChecks(is_on=options.check_numerics)
        self._weights: dict[tuple[Any, ...], OpenWeights] = {}
        self._open: dict[tuple[Any, ...], _Open] = {}
        self._tables: set[str] = set()  # Variables of which all workers have sparse gradients.
        self._updates: dict[str, Iterator[int]] = {}  # By variable, numbers of its updates.
        self._num_plans = self._num_units = 0  # Also of those that nobody follows any more.

    @property
    def plan(self) -> Plan | None:
        """The plans of all models so far, as one; None before the first step."""
        plans = [each.agreed.plan for each in self._open.values()]
        return Plan.joined(plans) if plans else None

    def contributed_s(self) -> dict[int, float]:
        """By unit of `plan`: how long after the first gradient of a step it was complete, lately.

        Units of models that have not trained since the last `fit` began are not in it.
        """
        by_route = self._worker.session.contributed_s()
        routes = [unit.route.of_session for each in self._open.values() for unit in each.units]
        return {at: by_route[route] for at, route in enumerate(routes) if route in by_route}

    def sum(
        self, optimizer: Any, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> list[Gradient]:
        """The gradients summed over all workers, in the same order.

        Raises:
          PlanError: the workers' models or options differ, or a gradient was summed before.
        """
        own = self._contribution(optimizer, gradients, variables)
        summed: dict[int, Gradient] = {}
        for each in own.units:
            summed |= each.exchange(
                own.gradients, own.compact, own.parts, rows=own.rows, check=own.check
            )
        in_order = [summed[position] for position in range(len(gradients))]
        scale = own.scale
        return in_order if scale is None else [multiplied(each, scale) for each in in_order]

    def send(
        self, optimizer: Any, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> Sequence[OpenUnit]:
        """The first half of `sum`, in a graph: on which units it has contributed.

        Raises:
          PlanError: as `sum`.
        """
        assert not self.weighs_samples, "weighted sums are exchanged as a whole"
        own = self._contribution(optimizer, gradients, variables)
        for each in own.units:
            each.send(own.gradients, own.compact, own.parts, rows=own.rows, check=own.check)
        return own.units

    def receive(
        self, optimizer: Any, like: Sequence[Gradient], variables: Sequence[Any]
    ) -> list[Gradient]:
        """The second half, in this or another graph: the sums, in the same order.

        Args:
          like: gradients of the same kinds and dtypes as those that were sent.
        """
        parts = [tf_internals.components(variable)[0] for variable in variables]
        summed: dict[int, Gradient] = {}
        for each in self._open[self._key_of(optimizer, variables)].units:
            summed |= each.receive(like, parts)
        return [summed[position] for position in range(len(like))]

    def _contribution(
        self, optimizer: Any, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> _Contribution:
        """What there is to contribute, on units that are opened where they are not yet."""
        weighted, share = self._sample_weights, None
        if weighted is not None:
            share = weighted.rows(optimizer)
        static = share if isinstance(share, int) and not tf.executing_eagerly() else None
        _refuse_summed(gradients, variables)
        specs, compact = self._described(optimizer, gradients, variables)
        key = self._key_of(optimizer, variables)
        if key not in self._open:
            self._first_values.agree_in_step(optimizer, variables)
            step = self._traced_step(gradients, variables)
            with tf.init_scope():
                agreed = self._agree(specs, step)
            self._tables |= {
                tf_internals.variable_id(variable)
                for variable, spec in zip(variables, agreed.specs, strict=True)
                if spec.sparse
            }
            key = self._key_of(optimizer, variables)
            if weighted is not None:
                self._weights[key] = weighted.open(static, self._rows_of_replica())
            self._open[key] = _Open(agreed, self._open_units(agreed))
            self._announce(agreed.plan)
        units = self._open[key].units
        compact = self._as_planned(units, specs, compact)
        rows = scale = None
        if weighted is not None and share is not None:
            gradients, compact, scale = weighted.weigh(
                self._weights[key], share, gradients, compact
            )
        elif not getattr(optimizer, "gradient_accumulation_steps", None):
            rows = self._shares.rows_to_check()
        return _Contribution(
            units,
            gradients,
            compact,
            [tf_internals.components(variable)[0] for variable in variables],
            rows,
            self.checks.for_gradients_of(optimizer),
            scale,
        )

    def _traced_step(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> TracedStep:
        return TracedStep(
            None if tf.executing_eagerly() else tf.compat.v1.get_default_graph(),
            self._rows_of_replica(),
            [tf_internals.components(variable)[0] for variable in variables],
            gradients,
        )

    def eager_units(self, variables: Sequence[Any]) -> list[OpenUnit]:
        """The units in which these eager gradients, of no known optimizer, have been summed."""
        return self._open[self._key_of(None, variables)].units

    def plans_in_time(self, variables: Sequence[Any]) -> dict[int, PlanInTime]:
        """Of traced steps that update nothing but some of these: by number, for `follow`."""
        ids = {tf_internals.variable_id(variable) for variable in variables}
        return {
            at: each.agreed.in_time
            for at, ((_, _, *updated), each) in enumerate(self._open.items())
            if each.agreed.in_time is not None and ids.issuperset(updated)
        }

    def are_in_use(self, units: Sequence[OpenUnit]) -> bool:
        """Whether steps that are traced now send on these units, as `send` has returned them."""
        return any(units is each.units for each in self._open.values())

    def follow(self, plans: Mapping[int, Plan]) -> None:
        """Steps that are traced from now on send by these; all workers call it between two steps.

        What was traced before goes on by the routes that it knows. They keep no memory meanwhile.

        Args:
          plans: by number, as `plans_in_time` has them.
        """
        for at, (key, before) in enumerate(list(self._open.items())):
            if at in plans:
                agreed = before.agreed._replace(plan=plans[at])
                routes = [unit.route.of_session for unit in before.units]
                first_step = max(route.next_step for route in routes)
                self._open[key] = _Open(agreed, self._open_units(agreed, first_step=first_step))
                for route in routes:
                    route.syncer.release()
                self._announce(agreed.plan)
        self._worker.session.interrupt_steps()

    @property
    def rows_to_check(self) -> Any:
        """Rows of the calling replica's share of the batch, where there may be none."""
        return self._shares.rows_to_check()

    @property
    def weighs_samples(self) -> bool:
        """Whether shares count by their rows."""
        return self._sample_weights is not None

    def _rows_of_replica(self) -> int | None:
        rows = self._batches.rows()
        return None if rows is None else -(-rows // self._worker.num_replicas)

    def _described(
        self, optimizer: Any, gradients: Sequence[Gradient], variables: Sequence[Any]
    ) -> tuple[list[VariableSpec], dict[int, Compact]]:
        """What the planner is told of these gradients, and their compact forms by position."""
        specs, compact = describe(
            unique_names(variables),
            gradients,
            [tf_internals.components(variable)[0] for variable in variables],
            batch_size=self._rows_of_replica(),
            why_rows=why_rows(optimizer),
        )
        # K is a worker's: what its replicas have travels as one, and eagerly is joined already.
        num_replicas = 1 if tf.executing_eagerly() else self._worker.num_replicas
        return [
            spec if spec.rows is None else replace(spec, rows=spec.rows * num_replicas)
            for spec in specs
        ], compact

    def fail(self, error: PoseidonError) -> None:
        """End the job on all workers: this one cannot finish a step that it has begun."""
        self._worker.session.fail(error)

    def record_applied(self, variables: Sequence[Any]) -> None:
        """Note, for the timeline, when each of these variables is updated, in the traced graph.

        The step is how often that was so before: an update may be part of the next step's graph.
        """
        recorder = self._worker.session.recorder
        if not recorder.is_recording or tf_internals.replica_id() != 0:
            return
        for name, variable in zip(unique_names(variables), variables, strict=True):
            steps = self._updates.setdefault(tf_internals.variable_id(variable), itertools.count())

            def record(_: Any, name: str = name, steps: Iterator[int] = steps) -> None:
                recorder.event("applied", name, next(steps))

            # Read after the update, as the program has it; one element is enough.
            value = tf_internals.components(variable)[0].read_value()
            applied = tf.numpy_function(record, [tf.reshape(value, [-1])[:1]], [])
            if not tf.executing_eagerly():
                tf_internals.run_independently(applied)

    def _key_of(self, optimizer: Any, variables: Sequence[Any]) -> tuple[Any, ...]:
        """What the program fixes of these variables: the same again finds its routes open.

        Nothing in it depends on how this worker's step was traced, and so on its batch.
        """
        ids = [tf_internals.variable_id(variable) for variable in variables]
        why = why_rows(optimizer) if self._tables.intersection(ids) else ""
        return (tf.executing_eagerly(), why, *ids)

    def _as_planned(
        self,
        units: Sequence[OpenUnit],
        specs: Sequence[VariableSpec],
        compact: Mapping[int, Compact],
    ) -> dict[int, Compact]:
        """The forms of `compact` that can travel as planned; the other gradients go whole."""
        result: dict[int, Compact] = {}
        for each in units:
            forms, why_whole = each.as_planned(specs, compact)
            result |= forms
            if why_whole:
                _log.warning(
                    "rank %d: the gradient of %r in this trace is not what was agreed on (%s), so "
                    "it travels whole to every other worker. If that is so in many steps, send it "
                    "through the servers: schemes={%r: 'ps'}",
                    self._worker.rank,
                    each.agreed.name,
                    why_whole,
                    each.agreed.name,
                )
        return result

    def _open_units(self, agreed: Agreed, *, first_step: int = 0) -> list[OpenUnit]:
        opened = open_units(
            self._worker,
            agreed.plan,
            agreed.specs,
            number=self._num_plans,
            first_key=self._num_units,
            first_step=first_step,
        )
        self._num_plans, self._num_units = self._num_plans + 1, self._num_units + len(opened)
        # Factors may come from a peer as soon as it has a plan: everyone must be listening.
        self._worker.gather("be ready for the gradients of this step", b"")
        return opened


def unique_names(variables: Sequence[Any]) -> list[str]:
    """Keras paths; a path that comes again gets a number."""
    seen: dict[str, int] = {}
    names = []
    for variable in variables:
        name = str(getattr(variable, "path", None) or variable.name.split(":")[0])
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _refuse_summed(gradients: Sequence[Gradient], variables: Sequence[Any]) -> None:
    for at, gradient in enumerate(gradients):
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        if hasattr(values, "graph") and source_of(values).op.type.startswith("QueueDequeue"):
            raise PlanError(
                f"the gradient of {unique_names(variables)[at]!r} was all-reduced before "
                "optimizer.apply, which sums it over the workers itself; leave out the all_reduce"
            )
