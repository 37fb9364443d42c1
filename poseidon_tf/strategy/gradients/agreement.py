"""What all workers must agree on before they exchange a number: the plan and the first values.

Nothing here goes by names: Keras numbers layers per process, so a worker that built an extra
model before has other names for the same variables. Rank 0's names stand for all.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from poseidon_tf.errors import PlanError, PoseidonError
from poseidon_tf.planner import (
    Choices,
    ClusterSpec,
    Outlook,
    Plan,
    PlanInTime,
    Sizes,
    VariableSpec,
    choices_of,
    first_difference,
    make_plan,
    merged,
    plan_in_time,
)
from poseidon_tf.planner.answers import human_seconds
from poseidon_tf.planner.table import human_bytes
from poseidon_tf.session.gathers import Places
from poseidon_tf.session.progress import showing
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.gradients.foresight import Foresight, TracedStep
from poseidon_tf.strategy.options import Options
from poseidon_tf.wire.dtypes import Array

_log = logging.getLogger("poseidon_tf")
_LONG_S = 2.0  # Giving values that takes less is not worth a line.


class Agreed(NamedTuple):
    """What all workers send by.

    Attributes:
      specs: what the plan was made of.
      in_time: by which it may be made anew; None for a plan by bytes.
    """

    plan: Plan
    specs: list[VariableSpec]
    in_time: PlanInTime | None


def agree_on_plan(
    worker: Worker,
    specs: Sequence[VariableSpec],
    step: TracedStep,
    cluster: ClusterSpec,
    options: Options,
    *,
    arithmetic: Sequence[Mapping[str, Any]],
    foresight: Foresight | None = None,
) -> Agreed:
    """The plan of these variables and what it was made of, the same on all workers.

    Args:
      step: of which these are the variables.
      arithmetic: by rank, what a product's bits depend on.
      foresight: for a plan by time; None plans by bytes.

    Raises:
      PlanError: another worker has another model or other options; names the first difference.
    """
    mine = json.dumps([spec.to_json_dict() for spec in specs])
    everyone = [
        [VariableSpec.from_json_dict(fields) for fields in json.loads(theirs)]
        for theirs in worker.gather(
            "begin the same step, as fit, train_on_batch and optimizer.apply do", mine.encode()
        )
    ]
    for rank, theirs in enumerate(everyone):
        difference = first_difference(
            everyone[0], theirs, mine_is="rank 0", theirs_is=f"rank {rank}"
        )
        if difference is not None:
            raise _refused(worker, f"the workers have different models: {difference}")
    agreed = merged(everyone)
    in_time = None
    try:
        choices = Choices(
            options.schemes, options.wire_dtype, options.kv_pair_bytes, options.coalesce_bytes
        )
        if isinstance(options.plan, Plan):
            choices = choices_of(options.plan, agreed)
        own = Sizes(choices.kv_pair_bytes, choices.coalesce_bytes)
        # None: they may be chosen; a job has one choice for all its models.
        sizes = foresight.sizes if foresight is not None and own == Sizes() else own
        how: dict[str, Any] = {
            "schemes": choices.schemes,
            "wire_dtype": choices.wire_dtype,
            "arithmetic_differs": arithmetic_difference(arithmetic),
        }
        plan = make_plan(agreed, cluster, **how, **(sizes or own)._asdict())
        if foresight is not None and (outlook := foresight.agree(agreed, step)) is not None:
            by_bytes, plan = plan, plan_in_time(agreed, cluster, outlook, sizes=sizes, **how)
            sizes = Sizes(plan.kv_pair_bytes, plan.coalesce_bytes)
            make = functools.partial(_plan_in_time, agreed, cluster, {**how, "sizes": sizes})
            in_time = PlanInTime(plan, outlook, make)
            _log.log(
                logging.INFO if worker.rank == 0 else logging.DEBUG,
                "planned by time: %s a step expected, %s by bytes; KV pairs of at most %s, small "
                "variables together up to %s",
                human_seconds(outlook.step_s(plan)),
                human_seconds(outlook.step_s(by_bytes)),
                *map(human_bytes, sizes),
            )
        if foresight is not None:
            foresight.sizes = sizes or own
    except PlanError as failure:
        raise _refused(worker, str(failure)) from failure
    digests = worker.gather("plan the gradients of this step", plan.digest().encode())
    if len(set(digests)) > 1:
        plans = [
            Plan.from_json(text.decode())
            for text in worker.gather("show the plan that differs", plan.to_json().encode())
        ]
        rank = next(r for r, digest in enumerate(digests) if digest != digests[0])
        difference = plans[0].first_difference(plans[rank])
        raise _refused(
            worker,
            f"rank 0 and rank {rank} have different plans; give all workers the same arguments: "
            f"{difference}",
        )
    return Agreed(plan, agreed, in_time)


def _plan_in_time(
    specs: Sequence[VariableSpec], cluster: ClusterSpec, how: Mapping[str, Any], outlook: Outlook
) -> Plan:
    return plan_in_time(specs, cluster, outlook, **how)


def arithmetic_difference(arithmetic: Sequence[Mapping[str, Any]]) -> str:
    """The first fact in which the workers' arithmetic differs; empty if it does not."""
    for rank, facts in enumerate(arithmetic):
        for fact, value in facts.items():
            if value != arithmetic[0].get(fact):
                return f"{fact} is {arithmetic[0].get(fact)} on rank 0, {value} on rank {rank}"
    return ""


def made_alike(worker: Worker, count: int, variables: Mapping[int, Any]) -> list[Any]:
    """Those of `variables` that all workers still have; all workers call it together.

    Args:
      count: how many this worker has made in the strategy's scope since it was last asked.
      variables: those that it still has, by their number among these.

    Returns:
      None of them where the workers have not made the same ones: then it cannot be told which one
      belongs to which, and rank 0 says so to the user.
    """
    facts = [
        [number, str(getattr(each, "path", each.name)), list(each.shape), each.dtype.name]
        for number, each in variables.items()
    ]
    everyone = [
        json.loads(theirs)
        for theirs in worker.gather(
            "take rank 0's first values, in fit, the first strategy.run or a step that is traced",
            json.dumps([count, facts]).encode(),
        )
    ]
    first_count, first = everyone[0]
    for rank, (their_count, theirs) in enumerate(everyone):
        others = {fact[0]: fact[1:] for fact in theirs}
        pairs = [(fact[1:], others[fact[0]]) for fact in first if fact[0] in others]
        differs = [pair for pair in pairs if pair[0][1:] != pair[1][1:]]
        if their_count != first_count or differs:
            difference = f"{first_count} on rank 0 and {their_count} on rank {rank}"
            if differs:
                difference = (
                    f"{_described([differs[0][0]])} on rank 0 and {_described([differs[0][1]])} "
                    f"on rank {rank}"
                )
            _log.log(
                logging.WARNING if worker.rank == 0 else logging.DEBUG,
                "the workers have made different variables in the strategy's scope (%s), so only "
                "those of optimizers and of models in fit get rank 0's first values; call "
                "keras.utils.set_random_seed before the others are made, and make what one worker "
                "has alone outside of the scope",
                difference,
            )
            return []
    common = set.intersection(*({fact[0] for fact in theirs} for _, theirs in everyone))
    return [each for number, each in variables.items() if number in common]


def agree_on_values(worker: Worker, variables: Sequence[Any], *, what: str) -> list[int]:
    """Give every variable rank 0's value; the positions of those that had another on some worker.

    Args:
      variables: TensorFlow or Keras variables, on all workers in the same order.

    Raises:
      PlanError: another worker has other variables; names the first difference.
    """
    parts = [tf_internals.components(variable) for variable in variables]
    facts = [
        [
            str(getattr(variable, "path", variable.name)),
            list(part[0].shape),
            part[0].dtype.name,
            hashlib.blake2b(_as_bytes(part[0].numpy()).data, digest_size=16).hexdigest(),
        ]
        for variable, part in zip(variables, parts, strict=True)
    ]
    take = f"take rank 0's {what}, in fit, train_on_batch or the first step of a loop"
    everyone = [json.loads(text) for text in worker.gather(take, json.dumps(facts).encode())]
    for rank, theirs in enumerate(everyone):
        for position in range(max(len(everyone[0]), len(theirs))):
            first, other = everyone[0][position : position + 1], theirs[position : position + 1]
            if [fact[1:3] for fact in first] != [fact[1:3] for fact in other]:
                raise _refused(
                    worker,
                    f"the workers have different variables ({what}): variable {position} is "
                    f"{_described(first)} on rank 0 and {_described(other)} on rank {rank}",
                )
    differing = [
        position
        for position in range(len(facts))
        if any(theirs[position][3] != everyone[0][position][3] for theirs in everyone)
    ]
    if differing:
        _take_values_of_rank_0(worker, take, [parts[position] for position in differing])
    return differing


def _take_values_of_rank_0(worker: Worker, take: str, parts: Sequence[Sequence[Any]]) -> None:
    """Give the variables with these components the values that they have on rank 0.

    They travel end to end: many small ones cost no more rounds than a large one.
    """

    def given() -> Iterator[memoryview]:
        for first, *_ in parts:
            yield _as_bytes(first.numpy()).data

    def taken() -> Iterator[memoryview]:
        for part in parts:
            value = np.empty(part[0].shape, part[0].dtype.as_numpy_dtype)
            yield _as_bytes(value).data
            for component in part:
                component.assign(value)

    if worker.rank == 0:
        num_bytes = sum(part[0].dtype.size * part[0].shape.num_elements() for part in parts)
        num_given = 0

        def count(rank: int, piece: memoryview) -> None:
            nonlocal num_given
            num_given += len(piece) * (rank == 0)

        words = f"{human_bytes(num_bytes)} of rank 0's values"
        with showing(
            lambda: f"{human_bytes(num_given)} of {words} given to all workers",
            lambda: f"{words} given to all workers",
            least_s=_LONG_S,
        ):
            worker.gather_stream(take, num_bytes, given(), count)
        return
    places = Places(taken())

    def fill(rank: int, piece: memoryview) -> None:
        if rank == 0:
            places.fill(piece)

    worker.gather_stream(take, 0, (), fill)
    places.finish()


def _as_bytes(value: Array) -> Array:
    """The bytes of `value`, not a copy of them if it is contiguous."""
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _described(facts: Sequence[Sequence[Any]]) -> str:
    return f"{facts[0][0]} {facts[0][2]} {tuple(facts[0][1])}" if facts else "missing"


def _refused(worker: Worker, reason: str) -> PoseidonError:
    return worker.session.fail_together(PlanError(reason))
