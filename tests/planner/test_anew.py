"""When a plan by time is made anew: figures have changed, a step gets shorter, no to and fro."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    Outlook,
    Plan,
    PlanInTime,
    Scheme,
    Timeline,
    VariableSpec,
    computation_s,
    plan_in_time,
)
from poseidon_tf.planner.anew import CHANGED, WORTH, changes

TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
T = 3.0
# 1000 bytes, or 140 of factors, whose product has 500 operations.
SPECS = [VariableSpec(name="kernel", shape=(25, 10), dtype="float32", factors=(25, 10), rows=1)]
FAST, SLOW = 8000.0, 100.0


def machines(
    bits_per_s: float, *, flops_per_s: float = 100.0, slowest: float | None = None
) -> Machines:
    slow = None if slowest is None else Link(bits_per_s=slowest)
    return Machines(link=Link(bits_per_s=bits_per_s), flops_per_s=flops_per_s, slow_worker=slow)


def outlook(of: Machines, compute_s: float = T) -> Outlook:
    """Of a step at whose end the gradient exists."""
    timeline = Timeline(compute_s, {"kernel": compute_s}, {"kernel": 0.0})
    return Outlook(timeline=timeline, machines=of)


def schemes(plan: Plan) -> list[Scheme]:
    return [variable.scheme for variable in plan.variables]


@dataclass
class Job:
    """A plan that was made for a fast link, and how often another one was looked for."""

    asked: list[Outlook] = field(default_factory=list)

    def __post_init__(self) -> None:
        first = outlook(machines(FAST))
        self.followed = PlanInTime(plan_in_time(SPECS, TWO, first), first, self._make)

    def _make(self, foreseen: Outlook) -> Plan:
        self.asked.append(foreseen)
        return plan_in_time(SPECS, TWO, foreseen)

    def sees(self, bits_per_s: float, compute_s: float | None = None) -> str:
        """Its scheme, once it has seen a link and steps like these."""
        self.followed.weigh(machines(bits_per_s), compute_s=compute_s, across_step=False)
        return str(*schemes(self.followed.plan))


def test_a_link_that_is_much_slower_gets_another_plan() -> None:
    """The sum comes 1.5 s after the step by the fast link; by the slow one it takes 120 s, and
    factors 11.2 s, with 5 s to multiply them."""
    followed = Job().followed
    assert schemes(followed.plan) == [Scheme.PS]
    found = followed.weigh(machines(SLOW), compute_s=None, across_step=False)
    assert found is not None and found.plan is followed.plan
    assert schemes(followed.plan) == [Scheme.SFB]
    assert [found.step_s, found.kept_s] == pytest.approx([19.2, 123.0])
    assert found.text() == (
        "planned anew: links carry 0.0001 Mbit/s, and was 0.008 Mbit/s; "
        "19.2 s a step expected, 123 s with the plan until now"
    )


def test_a_plan_that_does_not_fit_is_not_taken() -> None:
    followed = Job().followed
    found = followed.weigh(
        machines(SLOW), compute_s=None, across_step=False, fits=lambda plan: False
    )
    assert found is not None and found.plan is None
    assert schemes(followed.plan) == [Scheme.PS]
    assert found.text().endswith(
        "123 s a step expected, and servers have no room for the keys of another plan"
    )


def test_what_differs_as_measurements_do_changes_nothing() -> None:
    """Nor does anybody look for another plan, which can take seconds."""
    job = Job()
    for factor in (0.7, 1.4, 1.0, 0.68, 1.45):
        assert job.sees(FAST * factor, T / factor) == "ps"
    assert job.asked == []


def test_small_changes_add_up() -> None:
    """They are counted from when the plan was weighed last."""
    job = Job()
    seen = [job.sees(FAST / 1.4**times) for times in range(1, 14)]
    assert (seen[0], seen[-1]) == ("ps", "sfb")
    assert seen == sorted(seen), "once there and not back"
    assert 0 < len(job.asked) < len(seen)


def test_a_change_that_gains_too_little_leaves_the_plan() -> None:
    """And is looked at once: then these are the figures that count."""
    job = Job()
    assert job.sees(FAST / 2) == "ps"  # 6 s a step; 8.28 s by factors.
    assert len(job.asked) == 1
    assert [job.sees(FAST / 2 * factor) for factor in (1.2, 0.8, 1.0)] == ["ps"] * 3
    assert len(job.asked) == 1


def test_where_two_plans_are_as_good_neither_takes_the_place_of_the_other() -> None:
    """By a link of 2100 bits a second a step takes as long with both, within 5 %; it comes and goes
    here, and each time somebody looks."""
    near = outlook(machines(2100.0))
    plans = [plan_in_time(SPECS, TWO, near, schemes={"*": scheme}) for scheme in ("ps", "sfb")]
    by_sums, by_factors = map(near.step_s, plans)
    assert WORTH < by_factors / by_sums < 1
    for first in (FAST, SLOW):
        job = Job()
        scheme = job.sees(first)
        assert [job.sees(rate) for rate in (2100.0, first, 2100.0, first)] == [scheme] * 4
        assert len(job.asked) >= 4


def test_there_and_back_takes_one_change_each() -> None:
    job = Job()
    seen = [job.sees(rate) for rate in (FAST, SLOW, SLOW * 1.3, SLOW * 0.8, FAST, FAST * 0.7)]
    assert seen == ["ps", "sfb", "sfb", "sfb", "ps", "ps"]


def test_what_has_changed_is_said() -> None:
    plan = Job().followed.plan
    before = outlook(machines(2e9))
    assert changes(before, before, plan) == ""
    slower = outlook(machines(1e9, slowest=1e8))
    assert changes(before, slower, plan) == (
        "links carry 1 Gbit/s, and was 2 Gbit/s, the slowest worker's 100 Mbit/s, and was 2 Gbit/s"
    )
    assert changes(before, outlook(machines(2e9), 2 * T), plan) == (
        "the computation of a step takes 6 s, and was 3 s"
    )
    far = outlook(Machines(link=Link(bits_per_s=2e9, latency_s=1.0), flops_per_s=100.0))
    assert changes(before, far, plan).startswith("a step with the plan until now takes 5 s, ")
    within = outlook(machines(2e9 / CHANGED * 1.01))
    assert changes(before, within, plan) == ""


def test_steps_that_take_longer_are_counted_from_the_same_parts() -> None:
    """When its gradients exist is known as parts of a step."""
    job = Job()
    job.sees(SLOW, 10 * T)
    assert job.asked[0].timeline == Timeline(10 * T, {"kernel": 10 * T}, {"kernel": 0.0})


def test_a_step_that_was_seen_has_multiplied_the_others_factors() -> None:
    """Of two workers the factors of one take 5 s; 3 of 4 products are made alone, at least."""
    foreseen = outlook(machines(SLOW))
    by_factors = plan_in_time(SPECS, TWO, foreseen)
    assert computation_s(25.0, by_factors, foreseen) == pytest.approx(20.0)
    assert computation_s(8.0, by_factors, foreseen) == pytest.approx(6.0)
    by_sums = plan_in_time(SPECS, TWO, foreseen, schemes={"*": "ps"})
    assert computation_s(25.0, by_sums, foreseen) == 25.0
