"""Gradients that are rounded to 16 bits before they leave: what a plan makes of it."""

import dataclasses
import re
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.planner import ClusterSpec, Plan, Scheme, VariableSpec, make_plan
from tests.planner.planner_models import conv, dense, plain

TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
ALONE = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
NARROW = ["bfloat16", "float16"]


def some_net() -> list[VariableSpec]:
    """Something for each scheme, and a double that stays what it is."""
    return [
        VariableSpec(name="words/table", shape=(1000, 8), dtype="float32", sparse=True, rows=20),
        *conv("conv", 3, 8, 16),
        *dense("fc", 512, 512),
        plain("precise", 100, dtype="float64"),
    ]


@pytest.mark.parametrize("dtype", NARROW)
def test_what_was_float32_is_half_the_bytes(dtype: str) -> None:
    """Every scheme's column, what a worker moves, and what a server holds; indices stay."""
    wide, narrow = make_plan(some_net(), TWO), make_plan(some_net(), TWO, wire_dtype=dtype)
    schemes = [Scheme.ROWS, Scheme.PS, Scheme.PS, Scheme.SFB, Scheme.SFB, Scheme.PS]
    assert [each.scheme for each in narrow.variables] == schemes
    for was, now in zip(wide.variables[1:-1], narrow.variables[1:-1], strict=True):
        assert (was.dtype, now.dtype, now.wire_dtype) == ("float32", "float32", dtype)
        assert was.worker_bytes == 2 * now.worker_bytes
        assert was.ps_bytes == 2 * now.ps_bytes
        assert (was.sfb_bytes, was.adam_bytes) == (
            now.sfb_bytes and 2 * now.sfb_bytes,
            now.adam_bytes and 2 * now.adam_bytes,
        )
    assert narrow.variables[0].rows_bytes == 2 * 20 * (8 * 2 + 4)
    assert narrow.variables[-1] == wide.variables[-1]
    assert {unit.scheme: unit.dtype for unit in narrow.units if 5 not in unit.variables} == {
        scheme: dtype for scheme in Scheme
    }
    rounded = sum(4 * spec.num_elements for spec in conv("conv", 3, 8, 16))
    assert sum(wide.server_loads()) - sum(narrow.server_loads()) == rounded / 2


def test_elements_are_placed_once_however_wide() -> None:
    """Every element of what servers sum is in one KV pair, and none is larger than allowed."""
    specs = [plain("large", 1000, 1000), plain("precise", 77, dtype="float64")]
    plan = make_plan(specs, TWO, wire_dtype="bfloat16", kv_pair_bytes=64 * 1024)
    assert sum(pair.length for pair in plan.pairs if pair.unit == 0) == 1_000_000
    assert max(pair.length for pair in plan.pairs) * 2 <= 64 * 1024


def test_types_that_travel_differently_travel_apart() -> None:
    """And together where they are alike on the wire: a unit has one type."""
    specs = [plain(f"v{at}", 16) for at in range(4)] + [plain("half", 16, dtype="bfloat16")]
    plan = make_plan(specs, TWO, wire_dtype={"v[13]": "bfloat16"})
    assert [(unit.variables, unit.dtype) for unit in plan.units] == [
        ((0, 2), "float32"),
        ((1, 3, 4), "bfloat16"),
    ]


@pytest.mark.parametrize("rows, scheme", [(256, Scheme.SFB), (257, Scheme.PS)])
def test_factors_that_were_narrow_already_have_a_narrow_kernel_against_them(
    rows: int, scheme: Scheme
) -> None:
    """In mixed precision they pay up to K = M; once the kernel is rounded too, up to M / 2."""
    kernel, bias = dense("fc", 512, 512, rows=rows)
    mixed = [dataclasses.replace(kernel, factor_dtype="float16"), bias]
    assert make_plan(mixed, TWO).variables[0].scheme is Scheme.SFB
    narrow = make_plan(mixed, TWO, wire_dtype="bfloat16").variables[0]
    assert narrow.scheme is scheme
    # Nothing of the factors is lost; of the kernel there is.
    assert narrow.is_rounded == (scheme is Scheme.PS)
    assert narrow.sent_dtype == ("bfloat16" if scheme is Scheme.PS else "float16")


def test_the_last_pattern_that_matches_counts() -> None:
    chosen = {"*": "bfloat16", "fc/*": "float16", "conv/*": "float32"}
    plan = make_plan(some_net(), TWO, wire_dtype=chosen)
    wires = {each.name: each.wire_dtype for each in plan.variables}
    assert wires == {
        "words/table": "bfloat16",
        "conv/kernel": "float32",
        "conv/bias": "float32",
        "fc/kernel": "float16",
        "fc/bias": "float16",
        "precise": "float64",
    }


def test_a_bias_is_rounded_as_the_factors_that_it_comes_of() -> None:
    """And as it is asked for where the servers sum it."""
    chosen = {"fc/kernel": "bfloat16", "fc/bias": "float32"}
    by_factors = make_plan(dense("fc", 512, 512), TWO, wire_dtype=chosen)
    by_servers = make_plan(dense("fc", 512, 512), TWO, wire_dtype=chosen, schemes={"*": "ps"})
    assert [each.sent_dtype for each in by_factors.variables] == ["bfloat16", "bfloat16"]
    assert [each.sent_dtype for each in by_servers.variables] == ["bfloat16", "float32"]


def test_the_table_shows_what_is_sent_and_ends_with_what_is_lost() -> None:
    chosen = {"*": "bfloat16", "fc/*": "float16", "conv/bias": "float32"}
    lines = make_plan(some_net(), TWO, wire_dtype=chosen).table().splitlines()
    assert lines[-1] == (
        "Not lossless: of 6 gradients 4 are rounded to bfloat16 and float16 before they leave, and "
        "servers' sums of them on the way back."
    )
    assert re.split(r"  +", lines[0])[:4] == ["variable", "shape", "scheme", "sent as"]
    sent = [re.split(r"  +", line)[3] for line in lines[2:8]]
    assert sent == ["bfloat16", "bfloat16", "float32", "float16", "float16", "float64"]


@pytest.mark.parametrize("wire_dtype", [None, "float32", {}, {"*": "float32"}])
def test_where_nothing_is_rounded_nothing_is_said(wire_dtype: Any) -> None:
    """The plan is that of a job without the option, to the last bit of its digest."""
    plan = make_plan(some_net(), TWO, wire_dtype=wire_dtype)
    assert plan.digest() == make_plan(some_net(), TWO).digest()
    assert "sent as" not in plan.table() and "lossless" not in plan.table()


def test_one_worker_sends_nothing_and_rounds_nothing() -> None:
    plan = make_plan(some_net(), ALONE, wire_dtype="bfloat16")
    assert plan == make_plan(some_net(), ALONE)


def test_a_plan_that_rounds_is_another_plan() -> None:
    """By its digest, after JSON too, and a difference names what was asked for."""
    wide, narrow = make_plan(some_net(), TWO), make_plan(some_net(), TWO, wire_dtype="bfloat16")
    assert Plan.from_json(narrow.to_json()) == narrow
    assert wide.digest() != narrow.digest()
    assert wide.first_difference(narrow) == (
        "variable 0 (words/table): wire_dtype is float32 against bfloat16"
    )


@pytest.mark.parametrize(
    "wire_dtype, error, told",
    [
        ("float64", ConfigError, "wire_dtype must be 'bfloat16', 'float16' or 'float32', got 'fl"),
        (16, ConfigError, "wire_dtype must be 'bfloat16', 'float16' or 'float32', got 16"),
        ({"*": None}, ConfigError, r"wire_dtype\['\*'\] must be 'bfloat16', .*, got None"),
        (
            {"fc9/*": "bfloat16"},
            PlanError,
            r"wire_dtype's pattern 'fc9/\*' matches no variable; the names are: words/table, conv",
        ),
    ],
)
@pytest.mark.parametrize("cluster", [TWO, ALONE])
def test_what_cannot_be_is_refused(
    wire_dtype: Any, error: type[Exception], told: str, cluster: ClusterSpec
) -> None:
    """With one worker too."""
    with pytest.raises(error, match=told):
        make_plan(some_net(), cluster, wire_dtype=wire_dtype)
