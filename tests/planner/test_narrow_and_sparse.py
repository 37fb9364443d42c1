"""Factors narrower than their kernel, and gradients that are rows of a table."""

import dataclasses
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.planner import ClusterSpec, Plan, Scheme, VariableSpec, make_plan
from poseidon_tf.planner.plan import VariablePlan
from tests.planner.planner_models import dense

TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
SQUARES = "Adam squares every row by itself"


def table(
    num_rows: int = 1000, width: int = 8, rows: int | None = 20, **changes: Any
) -> VariableSpec:
    fields = {"name": "words/embeddings", "shape": (num_rows, width), "dtype": "float32"}
    return VariableSpec(**{**fields, "sparse": True, "rows": rows, **changes})


def planned(spec: VariableSpec, cluster: ClusterSpec = TWO, **options: Any) -> VariablePlan:
    return make_plan([spec], cluster, **options).variables[0]


def test_half_precision_factors_cost_half_and_pay_up_to_twice_the_rows() -> None:
    """At P1 = P2 = 2 and M = N, SFB pays up to K = M / 2 in the kernel's width."""
    wide, _ = dense("fc", 512, 512, rows=256)
    narrow = dataclasses.replace(wide, factor_dtype="float16")
    assert planned(narrow).sfb_bytes == 256 * 1024 * 4
    assert planned(wide).sfb_bytes == 2 * 256 * 1024 * 4
    assert planned(narrow).ps_bytes == planned(wide).ps_bytes
    assert planned(narrow).worker_bytes == planned(narrow).sfb_bytes
    for spec, most in ((wide, 256), (narrow, 512)):
        assert planned(dataclasses.replace(spec, rows=most)).scheme is Scheme.SFB
        assert planned(dataclasses.replace(spec, rows=most + 1)).scheme is Scheme.PS
    told = "2K(P1-1)(M+N) = 524.3 k x 2 B <= 2MN(P1+P2-2)/P2 = 524.3 k x 4 B"
    assert planned(narrow).reason == told


def test_only_what_depends_on_the_rows_is_narrow_in_adams_column() -> None:
    """(P1-1)(MN + KM + KN): the matrix stays as wide as it is."""
    wide, _ = dense("fc", 512, 256, rows=32)
    adam = planned(dataclasses.replace(wide, factor_dtype="float16")).adam_bytes
    assert adam == 512 * 256 * 4 + 32 * (512 + 256) * 2


def test_the_unit_has_the_dtype_that_travels() -> None:
    kernel, bias = dense("fc", 512, 512)
    plan = make_plan([dataclasses.replace(kernel, factor_dtype="bfloat16"), bias], TWO)
    assert [(unit.scheme, unit.dtype) for unit in plan.units] == [(Scheme.SFB, "bfloat16")]


@pytest.mark.parametrize("rows, scheme", [(888, Scheme.ROWS), (889, Scheme.PS)])
def test_rows_travel_where_they_are_fewer_bytes_than_the_table(rows: int, scheme: Scheme) -> None:
    """2K(P1-1)(8 x 4 + 4) bytes against 2MN(P1+P2-2)/P2 = 64000."""
    plan = planned(table(rows=rows))
    assert plan.scheme is scheme
    assert (plan.rows_bytes, plan.ps_bytes) == (2 * rows * 36, 64_000)
    assert plan.node_bytes == min(2 * rows * 36, 64_000)
    assert plan.sfb_bytes is None and plan.adam_bytes is None
    sign = "<=" if scheme is Scheme.ROWS else ">"
    assert plan.reason == f"2K(P1-1) rows = 62.{4 if rows == 888 else 5} KiB {sign} " + (
        "2MN(P1+P2-2)/P2 = 62.5 KiB"
    )


def test_with_dedicated_servers_rows_have_the_table_of_the_busiest_node_against_them() -> None:
    """max(2 MN, 2 P1 MN / P2): one server of two workers doubles it."""
    cluster = ClusterSpec(num_workers=2, num_servers=1, co_located=False)
    assert planned(table(rows=1777), cluster).scheme is Scheme.ROWS
    assert planned(table(rows=1778), cluster).scheme is Scheme.PS


def test_an_index_is_as_wide_as_the_table_is_long() -> None:
    """Four bytes count 2^31 rows, more need eight; values may be narrow."""
    assert table().row_bytes == 8 * 4 + 4
    assert table(num_rows=2**31).row_bytes == 8 * 4 + 8
    assert table(factor_dtype="float16").row_bytes == 8 * 2 + 4
    assert table(shape=(7,)).row_bytes == 4 + 4
    assert table(shape=(7, 2, 3)).row_bytes == 24 + 4


def test_an_optimizer_that_must_see_rows_gets_them_however_many() -> None:
    """No byte saved is worth another result."""
    plan = planned(table(rows=10**6, why_rows=SQUARES))
    assert plan.scheme is Scheme.ROWS
    assert plan.reason == f"rows: {SQUARES}"


def test_unknown_rows_travel_as_rows_without_a_price() -> None:
    plan = make_plan([table(rows=None)], TWO)
    (words,) = plan.variables
    assert words.scheme is Scheme.ROWS
    assert (words.rows_bytes, words.worker_bytes, words.node_bytes) == (None, 0, 0)
    assert "how many is unknown, pass rows_per_step=" in words.reason


def test_a_sparse_variable_is_a_unit_of_its_own() -> None:
    """Rows have no KV pairs, and the plan survives JSON."""
    specs = [table(), *dense("fc", 64, 10), table(name="users/embeddings", factor_dtype="float16")]
    plan = make_plan(specs, TWO)
    assert [(unit.scheme.value, unit.variables, unit.dtype) for unit in plan.units] == [
        ("rows", (0,), "float32"),
        ("ps", (1, 2), "float32"),
        ("rows", (3,), "float16"),
    ]
    assert {pair.unit for pair in plan.pairs} == {1}
    assert Plan.from_json(plan.to_json()) == plan
    assert "rows/step" in plan.table() and "rows/step" not in make_plan(specs[1:3], TWO).table()


def test_the_user_may_choose_between_rows_and_the_table() -> None:
    name = "words/embeddings"
    assert planned(table(), schemes={name: "ps"}).scheme is Scheme.PS
    assert planned(table(rows=10**6), schemes={"*": "rows"}).scheme is Scheme.ROWS
    assert planned(table(rows=10**6), schemes={"*": "rows"}).reason == "asked for by '*'"


@pytest.mark.parametrize(
    "specs, scheme, told",
    [
        ([table()], "sfb", "rows of a table, not a product; ask for 'rows'"),
        ([table(why_rows=SQUARES)], "ps", f"{SQUARES}, .* ask for 'rows'"),
        (dense("fc", 64, 10), "rows", "'fc/kernel' cannot be 'rows' .* is dense; ask for 'ps'"),
        (dense("fc", 64, 10), "*rows", "'fc/bias' cannot be 'rows' .* is dense; ask for 'ps'"),
    ],
)
def test_a_scheme_that_the_gradient_cannot_take_is_refused(
    specs: list[VariableSpec], scheme: str, told: str
) -> None:
    """The error says what to ask for, with one worker too."""
    pattern = "*/bias" if scheme == "*rows" else "*"
    for cluster in (TWO, ClusterSpec(num_workers=1, num_servers=0, co_located=True)):
        with pytest.raises(PlanError, match=told):
            make_plan(specs, cluster, schemes={pattern: scheme.lstrip("*")})


@pytest.mark.parametrize("changes", [{"factors": (1000, 8)}, {"shape": ()}])
def test_a_table_that_cannot_have_rows_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has no rows that a sparse gradient"):
        table(**changes)
