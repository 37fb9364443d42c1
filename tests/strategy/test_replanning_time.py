"""When links are looked at again between two epochs: so that all looks take 1 % of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poseidon_tf.planner import Measured
from poseidon_tf.strategy.gradients import replanning
from poseidon_tf.strategy.gradients.replanning import Replanning

pytestmark = pytest.mark.tensorflow


class Alone:
    """One worker whose plan stays: what it gathers is what it said."""

    rank, num_replicas = 0, 1

    def __init__(self) -> None:
        self.session = SimpleNamespace(
            steps=0, step_times=lambda last: SimpleNamespace(steps=0, own_s=0.0)
        )

    def gather(self, what: str, own: bytes) -> Sequence[bytes]:
        return [own]


class Clock:
    """Seconds since the job began, and how often links were measured; each look takes a while."""

    def __init__(self, look_s: float) -> None:
        self.now_s, self.looks, self.look_s = 0.0, 0, look_s

    def monotonic(self) -> float:
        return self.now_s

    def measure(self, **_: Any) -> Measured:
        self.looks += 1
        self.now_s += self.look_s
        return Measured(seen=(), took_s=self.look_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock(look_s=0.2)
    monkeypatch.setattr(replanning, "time", found)
    yield found


def looking(clock: Clock, *, plans: dict[int, Any]) -> Replanning:
    """A job whose first look took a second."""
    exchange = SimpleNamespace(plans_in_time=lambda variables: plans)
    return Replanning(
        cast(Any, Alone()),
        cast(Any, exchange),
        cast(Any, clock),
        Measured(seen=(), took_s=1.0),
        has_step_s=False,
        is_across=lambda: False,
        renew=lambda measured: None,
    )


class Kept:
    """A plan by time that nothing changes."""

    plan = SimpleNamespace(pairs=())

    def weigh(self, *_: Any, **__: Any) -> None:
        return None


def looks_at(clock: Clock, job: Replanning, moments_s: Sequence[float]) -> list[int]:
    """How often it has looked after an epoch that began at each of these moments."""
    found = []
    for moment_s in moments_s:
        clock.now_s = moment_s
        assert not job.between_epochs([])
        found.append(clock.looks)
    return found


def test_a_look_is_followed_by_a_hundred_times_as_long_without_one(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one took a second, the others a fifth: due at 100 s, and 20 s after each."""
    monkeypatch.setattr(Measured, "machines", lambda self, *, devices: None)
    job = looking(clock, plans={0: Kept()})
    moments_s = [1.0, 99.9, 100.1, 120.2, 120.4, 140.5, 500.0, 501.0]
    assert looks_at(clock, job, moments_s) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert clock.looks * clock.look_s <= replanning.MOST_TIME * clock.now_s


def test_a_job_without_a_plan_by_time_does_not_look(clock: Clock) -> None:
    assert looks_at(clock, looking(clock, plans={}), [1000.0]) == [0]
