"""What is asked about a step before there is one, and the file that holds a model's description."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    ModelDescription,
    Plan,
    Timeline,
    VariableSpec,
    make_plan,
    predict,
)
from poseidon_tf.planner.questions import WAYS, answer, curve
from tests.planner.planner_models import dense, plain

TIMES = Timeline(3.0, {"bottom": 3.0, "top": 2.0}, {"bottom": 0.0, "top": 0.5})
FAST = Machines(link=Link(bits_per_s=1e12))


def plan_of(specs: list[VariableSpec], workers: int = 2) -> Plan:
    cluster = ClusterSpec(num_workers=workers, num_servers=workers, co_located=True)
    return make_plan(specs, cluster, coalesce_bytes=0)


def top_heavy() -> Plan:
    """A bottom of 10 floats and a top of 1000, for two workers."""
    return plan_of([plain("bottom", 10), plain("top", 1000)])


def test_the_bottleneck_is_what_a_step_waits_for_most() -> None:
    """The top's 4000 bytes at 1000 a second end at 6 s and later, when the bottom's come."""
    machines = Machines(link=Link(bits_per_s=8000))
    found = answer(top_heavy(), TIMES, machines)
    assert found.prediction == predict(top_heavy(), TIMES, machines)
    assert found.across_step == predict(top_heavy(), TIMES, machines, across_step=True)
    assert found.across_step.step_s < found.prediction.step_s
    assert found.bottleneck is not None and found.bottleneck.name == "top"
    assert found.bottleneck.step_s == pytest.approx(3.0, abs=0.2)


def test_where_nothing_is_waited_for_nothing_is_the_bottleneck() -> None:
    found = answer(top_heavy(), TIMES, FAST)
    assert found.bottleneck is None
    assert found.prediction.step_s == pytest.approx(3.0)


def test_enough_is_the_slowest_link_that_makes_a_step_one_per_cent_longer() -> None:
    """Its answer is asked again, and a link that is a little slower."""
    found = answer(top_heavy(), TIMES, FAST)

    def step_s(bits_per_s: float) -> float:
        return predict(top_heavy(), TIMES, Machines(link=Link(bits_per_s=bits_per_s))).step_s

    assert found.endless_link_s == pytest.approx(3.0)
    assert step_s(found.enough_bits_per_s) <= 3.03 < step_s(found.enough_bits_per_s * 0.99)


def test_latency_is_not_mended_by_a_faster_link() -> None:
    late = Machines(link=Link(bits_per_s=1e12, latency_s=1.0))
    found = answer(top_heavy(), TIMES, late)
    assert found.endless_link_s == pytest.approx(5.0)
    assert found.enough_bits_per_s < 1e6


def test_one_worker_needs_no_link() -> None:
    cluster = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
    found = answer(make_plan([plain("bottom", 10)], cluster), TIMES, FAST)
    assert (found.bottleneck, found.prediction.speedup) == (None, 1.0)


def some_net() -> list[VariableSpec]:
    """With a table whose rows must be kept apart, which no server may sum, and odd names."""
    table = VariableSpec(
        name="words[0]", shape=(1000, 8), dtype="float32", sparse=True, rows=4, why_rows="Adam"
    )
    return [table, plain("conv*", 3, 3, 64, 64), *dense("fc", 2048, 2048)]


def points() -> Any:
    names = [spec.name for spec in some_net()]
    timeline = Timeline(1.0, dict.fromkeys(names, 0.5), dict.fromkeys(names, 0.1))
    return curve(
        some_net(),
        timeline,
        Machines(link=Link(bits_per_s=1e8)),
        [1, 2, 4, 1024],
        num_servers=None,
        co_located=True,
        schemes={},
    )


def test_the_curve_has_every_way_at_every_number_of_workers() -> None:
    """All are 1 for one worker. The hybrid is at least about as fast as what it chooses from."""
    found = points()
    assert [point.num_workers for point in found] == [1, 2, 4, 1024]
    assert {*WAYS} == set(found[0].predictions)
    assert all(each.speedup == 1.0 for each in found[0].predictions.values())
    for point in found[1:]:
        speedup = {way: each.speedup for way, each in point.predictions.items()}
        assert speedup["hybrid"] >= 0.99 * max(speedup["PS"], speedup["SFB"])
        assert speedup["hybrid across the step"] >= speedup["hybrid"]
        assert speedup["hybrid in 16 bits"] >= speedup["hybrid"]
    few, many = found[1].predictions, found[3].predictions
    assert few["SFB"].speedup > few["PS"].speedup
    assert many["SFB"].speedup < many["PS"].speedup


def description() -> ModelDescription:
    specs = some_net()
    return ModelDescription(
        batch_size=4,
        step_flops=10**12,
        specs=tuple(specs),
        needed={spec.name: at / 10 for at, spec in enumerate(specs)},
        exists={spec.name: 1 - at / 10 for at, spec in enumerate(specs)},
    )


def test_a_description_can_be_written_and_read() -> None:
    assert ModelDescription.from_json(description().to_json()) == description()


def test_a_description_times_a_step_of_any_length() -> None:
    timeline = description().timeline(20.0)
    assert timeline.compute_s == 20.0
    assert timeline.of("conv*") == pytest.approx((2.0, 18.0))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(format="another"),
        lambda data: data.pop("variables"),
        lambda data: data.update(batch_size=0),
        lambda data: data.update(batch_size=True),
        lambda data: data.update(step_flops=-1),
        lambda data: data["variables"][0].pop("exists"),
        lambda data: data["variables"][0].update(needed=1.5),
        lambda data: data["variables"][0].update(needed="nan"),
        lambda data: data["variables"][0].update(dtype="complex"),
        lambda data: data.update(variables=3),
    ],
)
def test_what_is_no_description_is_refused(change: Any) -> None:
    data = json.loads(description().to_json())
    change(data)
    with pytest.raises(ConfigError):
        ModelDescription.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000])
def test_what_is_no_json_of_ours_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ConfigError, match="not a model's description.*--describe"):
        ModelDescription.from_json(text)


def test_a_slow_member_keeps_its_link_when_the_others_get_an_endless_one() -> None:
    machines = replace(FAST, slow_worker=Link(bits_per_s=8000))
    assert answer(top_heavy(), TIMES, machines).endless_link_s > 6.0
