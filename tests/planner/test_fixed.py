"""A plan that was made before decides how the same variables travel."""

import json
from pathlib import Path

import pytest

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.planner import (
    ClusterSpec,
    Plan,
    VariableSpec,
    choices_of,
    make_plan,
    read_plan,
)
from tests.planner.planner_models import conv, dense, plain

TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
FIVE = ClusterSpec(num_workers=5, num_servers=5, co_located=True)


def some_net() -> list[VariableSpec]:
    return [
        VariableSpec(name="words/table", shape=(1000, 8), dtype="float32", sparse=True, rows=20),
        *conv("conv[1]", 3, 8, 16),
        *dense("fc", 512, 512),
        *dense("top", 512, 8),
        plain("precise", 100, dtype="float64"),
    ]


def planned_again(plan: Plan, cluster: ClusterSpec) -> Plan:
    return make_plan(some_net(), cluster, **choices_of(plan, some_net())._asdict())


def test_a_plan_makes_itself_again() -> None:
    """Whatever was asked for then: names that hold the signs of patterns, too."""
    before = make_plan(
        some_net(),
        TWO,
        schemes={"fc/*": "ps", "top/*": "sfb", "words/*": "ps"},
        wire_dtype={"*": "bfloat16", "conv*": "float32"},
        kv_pair_bytes=64 * 1024,
        coalesce_bytes=0,
    )
    again = planned_again(before, TWO)
    assert (again.units, again.pairs) == (before.units, before.pairs)
    for was, now in zip(before.variables, again.variables, strict=True):
        assert (now.scheme, now.wire_dtype) == (was.scheme, was.wire_dtype)


def test_in_another_cluster_the_schemes_stay_and_the_pieces_are_placed_anew() -> None:
    before = make_plan(some_net(), TWO, schemes={"fc/kernel": "ps"})
    again = planned_again(before, FIVE)
    assert again.cluster == FIVE
    assert [v.scheme for v in again.variables] == [v.scheme for v in before.variables]
    assert {pair.server for pair in again.pairs} > {pair.server for pair in before.pairs}


def test_a_plan_of_more_variables_serves_some_of_them() -> None:
    """As that of a script with two models does each of them."""
    plan = make_plan(some_net(), TWO, schemes={"fc/kernel": "ps"})
    schemes = choices_of(plan, some_net()[3:5]).schemes
    assert schemes == {"fc/kernel": "ps", "fc/bias": "ps"}


def test_a_variable_that_the_plan_does_not_have_is_named() -> None:
    plan = make_plan(some_net()[:3], TWO)
    with pytest.raises(PlanError, match=r"no variable 'fc/kernel'; it has: words/table, conv"):
        choices_of(plan, some_net())


def test_a_variable_of_another_shape_is_shown_with_both() -> None:
    plan = make_plan([plain("w", 10)], TWO)
    with pytest.raises(PlanError, match=r"'w' is float32 \(20,\), in the plan float32 \(10,\)"):
        choices_of(plan, [plain("w", 20)])


def test_a_file_gives_the_plan_that_was_written(tmp_path: Path) -> None:
    plan = make_plan(some_net(), TWO)
    answers = json.dumps({"plan": json.loads(plan.to_json()), "prediction": {}})
    for text in (plan.to_json(), answers):  # As `poseidon-tf plan` prints it with a prediction.
        (tmp_path / "plan.json").write_text(text)
        assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("content", [None, b"{}", b"\xff\xfe", b"[]"])
def test_a_file_without_a_plan_says_how_to_write_one(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan='.*plan.json' cannot be used: .*plan --json"):
        read_plan(path)
