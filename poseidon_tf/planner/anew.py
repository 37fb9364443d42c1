"""Whether a plan by time is made anew, once a job has seen what its links and its steps are like.

Two thresholds keep a plan from going back and forth. Figures have to change by more than they do
where nothing has changed, and another plan has to gain more than the model of a step may be wrong
by. Both are asked with the figures of the moment, and the next change is counted from those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from .answers import human_rate, human_seconds
from .exchanges import exchanges_of
from .in_time import Outlook
from .machines import Link, Machines
from .plan import Plan
from .timeline import Timeline

CHANGED = 1.5
"""Figures that differ by no more than this factor are equal: on a busy machine equal links differ
by a third, from one moment to the next."""
WORTH = 0.95
"""Another plan is taken if its step takes at most this part of that of the plan until now: the
model is no more exact, and to trace a step again takes as long as many steps."""

_LINKS: Mapping[str, Callable[[Machines], Sequence[Link]]] = {
    "links carry": lambda machines: (machines.link,),
    "the slowest worker's": lambda machines: machines.worker_links,
    "the slowest server's": lambda machines: machines.server_links,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A plan was weighed again, as something had changed.

    Attributes:
        why: what has changed, in words.
        plan: another one; None if the plan until now stays.
        fits: whether another one that gains enough may take its place.
        step_s, kept_s: what a step takes, as things are now, with the plan that is followed from
            now on, and with the plan until now.
    """

    why: str
    plan: Plan | None
    step_s: float
    kept_s: float
    fits: bool = True

    def text(self) -> str:
        """For the log."""
        if self.plan is None:
            other = (
                f"no other plan makes it {100 * (1 - WORTH):.0f} % shorter"
                if self.fits
                else "servers have no room for the keys of another plan"
            )
            return (
                f"the plan stays: {self.why}; {human_seconds(self.kept_s)} a step expected, and "
                f"{other}"
            )
        return (
            f"planned anew: {self.why}; {human_seconds(self.step_s)} a step expected, "
            f"{human_seconds(self.kept_s)} with the plan until now"
        )


@final
class PlanInTime:
    """A plan that a job follows, as long as it is worth it.

    Args:
        outlook: by which it was made.
        make: the plan by another outlook.
    """

    def __init__(self, plan: Plan, outlook: Outlook, make: Callable[[Outlook], Plan]) -> None:
        self.plan, self.outlook = plan, outlook
        self._make = make

    def weigh(
        self,
        machines: Machines,
        *,
        compute_s: float | None,
        across_step: bool,
        fits: Callable[[Plan], bool] = lambda plan: True,
    ) -> Weighed | None:
        """As things are now; None if they are as they were.

        Args:
            compute_s: a step of one worker alone; None if it is not known anew.
            across_step: whether updates are made at the beginning of the next step.
            fits: whether a plan may take the place of this one.
        """
        now = Outlook(
            timeline=_lasting(self.outlook.timeline, compute_s or self.outlook.timeline.compute_s),
            machines=machines,
            across_step=across_step,
        )
        why = changes(self.outlook, now, self.plan)
        if not why:
            return None
        self.outlook = now
        found = self._make(now)
        kept_s, step_s = now.step_s(self.plan), now.step_s(found)
        if step_s > WORTH * kept_s:
            return Weighed(why=why, plan=None, step_s=kept_s, kept_s=kept_s)
        if not fits(found):
            return Weighed(why=why, plan=None, step_s=kept_s, kept_s=kept_s, fits=False)
        self.plan = found
        return Weighed(why=why, plan=found, step_s=step_s, kept_s=kept_s)


def changes(before: Outlook, now: Outlook, plan: Plan) -> str:
    """What has changed by more than measurements do, in words; empty if nothing has.

    What a step takes with `plan` is looked at as well, as small changes may add up.
    """
    rates: dict[tuple[float, float], str] = {}  # Where links are alike one name says it.
    for name, links_of in _LINKS.items():
        was, of_now = (min(map(_rate, links_of(each.machines))) for each in (before, now))
        rates.setdefault((was, of_now), name)
    found = [
        f"{name} {human_rate(of_now)}, and was {human_rate(was)}"
        for (was, of_now), name in rates.items()
        if _differ(was, of_now)
    ]
    was, of_now = before.timeline.compute_s, now.timeline.compute_s
    if _differ(was, of_now):
        found.append(_times("the computation of a step takes", was, of_now))
    was, of_now = before.step_s(plan), now.step_s(plan)
    if not found and _differ(was, of_now):
        found.append(_times("a step with the plan until now takes", was, of_now))
    return ", ".join(found)


def computation_s(own_s: float, plan: Plan, outlook: Outlook) -> float:
    """What a step of one worker alone takes, of one of all that was seen without its waiting.

    That has multiplied the factors of all others. Of the P1 + 2 products that a layer then makes it
    makes 3 alone, so that part is the least that is left.
    """
    P1, speed = plan.cluster.num_workers, outlook.machines.flops_per_s
    flops = sum(each.rebuild_flops for each in exchanges_of(plan, outlook.timeline))
    return max(own_s - flops / speed if speed else own_s, own_s * 3 / (P1 + 2))


def _lasting(timeline: Timeline, compute_s: float) -> Timeline:
    """`timeline`, slower or faster."""
    factor = compute_s / timeline.compute_s

    def scaled(times_s: Mapping[str, float]) -> dict[str, float]:
        return {name: factor * each for name, each in times_s.items()}

    return replace(
        timeline,
        compute_s=compute_s,
        exists_s=scaled(timeline.exists_s),
        needed_s=scaled(timeline.needed_s),
    )


def _times(what: str, was_s: float, now_s: float) -> str:
    return f"{what} {human_seconds(now_s)}, and was {human_seconds(was_s)}"


def _rate(link: Link) -> float:
    return link.bits_per_s


def _differ(one: float, other: float) -> bool:
    return max(one, other) > CHANGED * min(one, other)
