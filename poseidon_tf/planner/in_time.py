"""Chooses what makes a step short, where `planner` on its own counts bytes.

The paper's rule is the first plan. From there schemes are changed as long as the model of a step
(`simulate`) says that this helps; then the sizes of KV pairs, and of what travels together because
it is small. Of two plans with equal steps the one with fewer bytes is better, and what gains less
than 1 % is not worth leaving the rule, or the usual sizes.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .answers import human_seconds
from .machines import Machines
from .patterns import last_matches
from .plan import Plan, Scheme
from .planner import (
    DEFAULT_KV_PAIR_BYTES,
    KV_PAIR_BYTES_RANGE,
    LARGEST_COALESCE_BYTES,
    make_plan,
)
from .schemes.ps import DEFAULT_COALESCE_BYTES
from .simulate import predict
from .specs import ClusterSpec, VariableSpec
from .timeline import Timeline

WORTH = 0.99
"""A plan whose step takes more than this part of that by bytes is not taken: measurements differ by
that much from one minute to the next, and plans should not."""
EQUAL = 1e-6
"""Steps that differ by no more than this part of themselves are equal."""
SIZE_STEP = 4
"""By which sizes are multiplied or divided."""
MOST_PLANS = 400
"""That are tried for one model, ..."""
MOST_VARIABLES = 30_000
"""... with so many variables in all of them: some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a step's time follows from besides the plan.

    Attributes:
        timeline: of a step of one worker alone.
        across_step: whether updates are made at the beginning of the next step.
    """

    timeline: Timeline
    machines: Machines
    across_step: bool = False

    def step_s(self, plan: Plan) -> float:
        """How long a step takes under `plan`."""
        return predict(plan, self.timeline, self.machines, across_step=self.across_step).step_s


class _Tried(NamedTuple):
    plan: Plan
    step_s: float

    def is_better(self, than: _Tried) -> bool:
        """A shorter step; of equal ones that with fewer bytes."""
        if abs(self.step_s - than.step_s) > EQUAL * than.step_s:
            return self.step_s < than.step_s
        return self.plan.node_bytes_per_step() < than.plan.node_bytes_per_step()


_Wishes = Mapping[str, Scheme]  # By a variable's name.


class Sizes(NamedTuple):
    """What one plan cuts and joins by; as `make_plan` has them."""

    kv_pair_bytes: int = DEFAULT_KV_PAIR_BYTES
    coalesce_bytes: int = DEFAULT_COALESCE_BYTES

    def near(self) -> Iterator[Sizes]:
        """One of them a step smaller or larger."""
        smallest, largest = KV_PAIR_BYTES_RANGE
        for size in (self.kv_pair_bytes * SIZE_STEP, self.kv_pair_bytes // SIZE_STEP):
            if smallest <= size <= largest:
                yield self._replace(kv_pair_bytes=size)
        for size in (self.coalesce_bytes * SIZE_STEP, self.coalesce_bytes // SIZE_STEP):
            if 0 < size <= LARGEST_COALESCE_BYTES:
                yield self._replace(coalesce_bytes=size)


def plan_in_time(
    specs: Sequence[VariableSpec],
    cluster: ClusterSpec,
    outlook: Outlook,
    *,
    schemes: Mapping[str, str] | None = None,
    arithmetic_differs: str = "",
    sizes: Sizes | None = None,
    **others: Any,
) -> Plan:
    """The plan with the shortest step that was found. Equal arguments give equal plans.

    Args:
        schemes, arithmetic_differs, others: as `make_plan` has them. Variables for which `schemes`
            says something keep that, and where `arithmetic_differs` no other scheme is chosen.
        sizes: that all plans have; None to choose them too.

    Raises:
        PlanError: as `make_plan`, or the outlook's timeline lacks a variable.
    """
    own = dict(schemes or {})

    def tried(wishes: _Wishes, sizes: Sizes) -> _Tried:
        plan = make_plan(
            specs,
            cluster,
            schemes=own | {glob.escape(name): str(scheme) for name, scheme in wishes.items()},
            arithmetic_differs=arithmetic_differs,
            **sizes._asdict(),
            **others,
        )
        return _Tried(plan, outlook.step_s(plan))

    usual = sizes or Sizes()
    by_bytes = tried({}, usual)
    free = {} if arithmetic_differs else _free(specs, by_bytes.plan, own)
    by_rule = {name: each.scheme for name, each in free.items()}
    wishes: dict[str, Scheme] = by_rule
    best = by_bytes
    left = min(MOST_PLANS, MOST_VARIABLES // max(1, len(specs)))
    improves = bool(free)
    while improves:
        improves = False
        for changed in _neighbours(wishes, free):
            if left == 0:
                break
            left -= 1
            found = tried(_changes(by_rule, changed), usual)
            if found.is_better(best):
                wishes, best, improves = changed, found, True
    if best.step_s > WORTH * by_bytes.step_s:
        wishes, best = by_rule, by_bytes
    changes, chosen = _changes(by_rule, wishes), usual
    while sizes is None:
        nearest = chosen
        for others_near in nearest.near():
            found = tried(changes, others_near)
            if found.step_s < WORTH * best.step_s:
                best, chosen = found, others_near
        if chosen is nearest:
            break
    return _explained(best, changes, by_rule, lambda kept: tried(kept, chosen))


class _Free(NamedTuple):
    """A variable whose scheme may be chosen: as the rule has it, and the other one.

    Attributes:
        kind: the same for all that are alike.
    """

    scheme: Scheme
    other: Scheme
    kind: tuple[Any, ...]


def _free(
    specs: Sequence[VariableSpec], plan: Plan, schemes: Mapping[str, str]
) -> dict[str, _Free]:
    """By name; two variables of one name are one."""
    found = {}
    matches = last_matches(specs, schemes)
    for spec, planned, match in zip(specs, plan.variables, matches, strict=True):
        is_compact = spec.factors is not None or (spec.sparse and not spec.why_rows)
        if match is not None or spec.rows is None or not is_compact or spec.bias_of is not None:
            continue
        compact = Scheme.ROWS if spec.sparse else Scheme.SFB
        other = compact if planned.scheme is Scheme.PS else Scheme.PS
        kind = (spec.shape, spec.factors, spec.rows, spec.dtype, spec.sent_dtype)
        found[spec.name] = _Free(planned.scheme, other, kind)
    return found if plan.cluster.num_workers > 1 else {}


def _neighbours(wishes: _Wishes, free: dict[str, _Free]) -> Iterator[dict[str, Scheme]]:
    """All of one kind changed, or one variable, or two; from the top down, where backpropagation
    begins. Two, as what one leaves free on a link may be worth something only to another."""

    def flipped(names: Iterable[str]) -> dict[str, Scheme]:
        return dict(wishes) | {
            name: free[name].other if wishes[name] is free[name].scheme else free[name].scheme
            for name in names
        }

    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name in reversed(free):
        kinds.setdefault(free[name].kind, []).append(name)
    for of_kind in kinds.values():
        for scheme in {wishes[name]: None for name in of_kind}:
            alike = [name for name in of_kind if wishes[name] is scheme]
            if len(alike) > 1:
                yield flipped(alike)
    for count in (1, 2):
        for names in itertools.combinations(reversed(free), count):
            yield flipped(names)


def _changes(by_rule: _Wishes, wishes: _Wishes) -> dict[str, Scheme]:
    return {name: scheme for name, scheme in wishes.items() if scheme is not by_rule[name]}


def _explained(
    best: _Tried, changed: _Wishes, by_rule: _Wishes, tried: Callable[[_Wishes], _Tried]
) -> Plan:
    """The plan, in which each variable that leaves the rule says what a step would take with it."""
    reasons = {}
    for name, scheme in changed.items():
        kept = {other: its for other, its in changed.items() if other != name}
        reasons[name] = (
            f"{_words(scheme)}: {human_seconds(best.step_s)} a step, "
            f"{human_seconds(tried(kept).step_s)} by {_words(by_rule[name])}, which has fewer bytes"
        )
    return replace(
        best.plan,
        variables=tuple(
            replace(each, reason=reasons.get(each.name, each.reason))
            for each in best.plan.variables
        ),
    )


def _words(scheme: Scheme) -> str:
    return "rows" if scheme is Scheme.ROWS else str(scheme).upper()
