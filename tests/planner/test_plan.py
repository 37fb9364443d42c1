"""A plan can be printed, compared, stored and sent."""

import dataclasses
import json
from typing import Any

import pytest

from poseidon_tf.errors import PlanError
from poseidon_tf.planner import ClusterSpec, Plan, make_plan
from tests.planner.planner_models import alexnet, dense, digits_convnet, plain

EIGHT = ClusterSpec(num_workers=8, num_servers=8, co_located=True)
TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)


def test_a_plan_survives_json() -> None:
    plan = make_plan(alexnet(), EIGHT)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"cluster": {}}', "[" * 100_000])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    "where, value",
    [
        (("cluster", "num_workers"), True),
        (("cluster", "co_located"), 1),
        (("kv_pair_bytes",), -1),
        (("kv_pair_bytes",), float("nan")),
        (("variables", 0, "name"), 7),
        (("variables", 0, "factors"), [512]),
        (("variables", 0, "factors"), [512, 512, 512]),
        (("variables", 0, "shape"), "512"),
        (("variables", 0, "shape"), [[512]]),
        (("variables", 0, "scheme"), "carrier pigeon"),
        (("variables", 0, "rows"), 4.0),
        (("variables", 0), ["name"]),
        (("units", 0, "variables"), {"0": 0}),
        (("pairs", 0, "length"), 2.5),
        (("pairs", 0, "more"), 1),
        (("pairs",), 3),
    ],
)
def test_a_plan_with_one_thing_of_another_kind_is_refused(
    where: tuple[Any, ...], value: Any
) -> None:
    """Also where JSON is as good as any: a plan is compared, and counted with."""
    data = json.loads(make_plan(alexnet(), EIGHT).to_json())
    *path, last = where
    place = data
    for step in path:
        place = place[step]
    place[last] = value
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(json.dumps(data))


CHANGES = {
    "rows": make_plan(dense("fc", 512, 512, rows=8), TWO),
    "shape": make_plan(dense("fc", 512, 513, rows=4), TWO),
    "dtype": make_plan(dense("fc", 512, 512, rows=4, dtype="float16"), TWO),
    "name": make_plan(dense("fc_1", 512, 512, rows=4), TWO),
    "scheme": make_plan(dense("fc", 512, 512, rows=4), TWO, schemes={"*": "ps"}),
    "cluster": make_plan(dense("fc", 512, 512, rows=4), EIGHT),
    "kv_pair_bytes": make_plan(dense("fc", 512, 512, rows=4), TWO, kv_pair_bytes=8192),
    "1 variables": make_plan(dense("fc", 512, 512, rows=4)[:1], TWO),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_shows_in_the_digest_and_is_named(what: str) -> None:
    plan = make_plan(dense("fc", 512, 512, rows=4), TWO)
    other = CHANGES[what]
    assert other.digest() != plan.digest()
    assert what in (other.first_difference(plan) or "")


def test_a_difference_names_the_variable_and_both_values() -> None:
    plan = make_plan(dense("fc", 512, 512, rows=4), TWO)
    assert plan.first_difference(plan) is None
    assert plan.first_difference(CHANGES["scheme"]) == (
        "variable 0 (fc/kernel): scheme is sfb against ps"
    )
    paired = CHANGES["scheme"]
    moved = dataclasses.replace(paired.pairs[0], server=1)
    other = dataclasses.replace(paired, pairs=(moved, *paired.pairs[1:]))
    assert paired.first_difference(other) == "pair 0: server is 0 against 1"


def test_the_table_shows_every_variable_its_columns_and_a_total() -> None:
    text = make_plan([*dense("fc7", 4096, 4096), plain("step")], EIGHT).table()
    kernel = next(line for line in text.splitlines() if line.startswith("fc7/kernel"))
    for cell in ("4096x4096", "sfb", "224.0 MiB", "14.0 MiB", "455.0 MiB", "8.6 G", "58.7 M"):
        assert cell in kernel
    assert "scalar" in text and "total" in text
    assert "as planned: 14.0 MiB" in text
    assert "P1 = 8 workers, P2 = 8 servers, co-located" in text


def test_joined_plans_keep_every_variable_unit_and_pair() -> None:
    first, second = make_plan(alexnet(), EIGHT), make_plan(digits_convnet(), EIGHT)
    both = Plan.joined([first, second])
    assert both.variables == first.variables + second.variables
    assert [unit.index for unit in both.units] == list(range(len(both.units)))
    for unit, source in zip(both.units[len(first.units) :], second.units, strict=True):
        names = [both.variables[at].name for at in unit.variables]
        assert names == [second.variables[at].name for at in source.variables]
    sums = zip(first.server_loads(), second.server_loads(), strict=True)
    assert both.server_loads() == tuple(a + b for a, b in sums)
    assert Plan.from_json(both.to_json()) == both
    assert Plan.joined([first]) == first


def test_plans_of_different_clusters_do_not_join() -> None:
    with pytest.raises(PlanError, match="different clusters"):
        Plan.joined([make_plan(alexnet(), TWO), make_plan(alexnet(), EIGHT)])
    with pytest.raises(PlanError, match="no plan"):
        Plan.joined([])


def test_alexnet_on_eight_nodes_needs_the_26_gbit_of_the_authors_talk() -> None:
    """61.5 M parameters, 0.25 s per step, 8 nodes that work and serve.

    The formula is the co-located column of Table 1, in plus out: 2 MN (P1 + P2 - 2) / P2 values
    of 32 bits per step. 61.5 M / 0.25 s gives 27.6 Gbit/s, the 61.0 M of the published shapes
    27.3. With gradients rounded down to 240 M per second it is 26.9, which cut to whole Gbit is
    26: the likely way to the talk's number, so 26 to 28 passes.
    """
    assert 240e6 * 2 * 14 / 8 * 32 / 1e9 == pytest.approx(26.9, abs=0.05)
    whole = make_plan([plain("all", 61_500_000)], EIGHT)
    assert whole.gbit_per_s(0.25) == pytest.approx(27.55, abs=0.01)
    plan = make_plan(alexnet(), EIGHT, schemes={"*": "ps"})
    assert 26 <= plan.gbit_per_s(0.25) < 28
    assert make_plan(alexnet(), EIGHT).gbit_per_s(0.25) < 26 / 5  # factors for fc6 to fc8


def test_dedicated_servers_need_the_bandwidth_of_the_busier_side() -> None:
    specs = [plain("v", 1_000_000)]
    few = make_plan(specs, ClusterSpec(num_workers=8, num_servers=2, co_located=False))
    assert few.node_bytes_per_step() == pytest.approx(2 * 8 * 4e6 / 2, rel=0.05)
    many = make_plan(specs, ClusterSpec(num_workers=2, num_servers=8, co_located=False))
    assert many.node_bytes_per_step() == many.worker_bytes_per_step() == 8_000_000


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_step_takes_time(seconds: float) -> None:
    with pytest.raises(PlanError, match="step_seconds"):
        make_plan(alexnet(), EIGHT).gbit_per_s(seconds)
