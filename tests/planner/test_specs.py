"""Specs are valid once built, and two workers' specs can be compared."""

import json
from dataclasses import replace
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import ClusterSpec, VariableSpec, first_difference, merged
from tests.planner.planner_models import alexnet, dense, plain


def difference(mine: list[VariableSpec], theirs: list[VariableSpec]) -> str | None:
    return first_difference(mine, theirs, mine_is="rank 0", theirs_is="rank 1")


@pytest.mark.parametrize("workers, servers", [(0, 1), (2, 0), (1, -1)])
def test_an_impossible_cluster_is_refused(workers: int, servers: int) -> None:
    with pytest.raises(ConfigError):
        ClusterSpec(num_workers=workers, num_servers=servers, co_located=True)


def test_one_worker_needs_no_server() -> None:
    ClusterSpec(num_workers=1, num_servers=0, co_located=True)


@pytest.mark.parametrize(
    "wrong, names",
    [
        ({"dtype": "string"}, "string"),
        ({"shape": (4, 0)}, r"\(4, 0\)"),
        ({"factors": (4, 6)}, "24"),
        ({"rows": 0}, "rows"),
    ],
)
def test_an_impossible_variable_is_refused_and_the_reason_is_named(
    wrong: dict[str, Any], names: str
) -> None:
    right = {"name": "fc/kernel", "shape": (4, 5), "dtype": "float32"}
    with pytest.raises(ConfigError, match=names):
        VariableSpec(**{**right, **wrong})


@pytest.mark.parametrize("dtype, size", [("float16", 2), ("bfloat16", 2), ("float64", 8)])
def test_bytes_follow_the_dtype(dtype: str, size: int) -> None:
    assert plain("v", 3, 5, dtype=dtype).num_bytes == 15 * size
    assert plain("v", dtype=dtype).num_elements == 1  # a scalar


def test_specs_survive_json() -> None:
    kernel, _ = dense("turned", 8, 6)
    for spec in [*alexnet(), replace(kernel, layout=(((8, 6), (1, 0)),))]:
        assert VariableSpec.from_json_dict(json.loads(json.dumps(spec.to_json_dict()))) == spec


@pytest.mark.parametrize("change", [{"shape": 7}, {"factors": [1]}, {"dtype": None}])
def test_json_that_is_no_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        VariableSpec.from_json_dict({**plain("v", 3).to_json_dict(), **change})
    with pytest.raises(ConfigError):
        VariableSpec.from_json_dict({})


def test_equal_models_under_other_names_do_not_differ() -> None:
    assert difference(dense("seq/fc1", 64, 10), dense("seq_1/fc1", 64, 10)) is None


def test_a_difference_names_the_variable_and_both_values() -> None:
    front = dense("seq/fc0", 8, 64)
    mine = [*front, *dense("seq/fc1", 64, 10)]
    theirs = [*front, *dense("seq_1/fc1", 64, 12)]
    assert difference(mine, theirs) == (
        "variable 2: rank 0 has seq/fc1/kernel float32 (64, 10), "
        "rank 1 has seq_1/fc1/kernel float32 (64, 12)"
    )


def test_a_difference_that_shape_and_dtype_hide_is_spelled_out() -> None:
    kernel, bias = dense("fc", 64, 10)
    narrow = replace(kernel, factor_dtype="float16")
    told = difference([kernel, bias], [narrow, bias]) or ""
    assert "[dtype of factors float32]" in told and "[dtype of factors float16]" in told
    other = replace(kernel, name="other/kernel")
    attached = replace(bias, bias_of=other.name)
    told = difference([kernel, other, bias], [kernel, other, attached]) or ""
    assert "[bias of variable 0]" in told and "[bias of variable 1]" in told


def test_what_the_shapes_of_one_batch_hide_is_no_difference() -> None:
    """One row, or an open length: no factors, other rows, no column sum; a table's dense sum."""
    kernel, bias = dense("fc", 64, 10)
    hidden = [plain("fc/kernel", 64, 10), plain("fc/bias", 10)]
    assert difference([kernel, bias], hidden) is None
    assert difference(hidden, [kernel, bias]) is None
    assert difference([kernel, bias], dense("fc", 64, 10, rows=1)) is None
    table = VariableSpec(name="t", shape=(9, 4), dtype="float32", sparse=True, rows=3, why_rows="a")
    assert difference([table], [plain("t", 9, 4)]) is None


def test_what_one_worker_sees_holds_for_all() -> None:
    """By the names of rank 0, with the most rows; a bias belongs to the kernel at its place."""
    kernel, bias = dense("seq/fc", 64, 10, rows=2)
    hidden = [plain("seq/fc/kernel", 64, 10), plain("seq/fc/bias", 10)]
    theirs = dense("seq_1/fc", 64, 10, rows=5)
    for everyone in ([hidden, theirs], [[kernel, hidden[1]], theirs], [hidden, theirs, hidden]):
        agreed = merged(everyone)
        assert [spec.name for spec in agreed] == [kernel.name, bias.name]
        assert (agreed[0].factors, agreed[0].rows, agreed[0].why_not) == ((64, 10), 5, "")
        assert agreed[1].bias_of == kernel.name
    assert merged([hidden, hidden]) == hidden


def test_factors_are_those_of_a_worker_that_sees_the_bias() -> None:
    """Turned round, V would not have the bias as its column sum."""
    kernel, bias = dense("fc", 10, 10)
    turned = replace(kernel, layout=(((10, 10), (1, 0)),))
    agreed = merged([[turned, plain("fc/bias", 10)], [kernel, bias]])
    assert agreed[0].layout == () and agreed[1].bias_of == "fc/kernel"


def test_a_table_is_sparse_where_it_is_on_all_workers() -> None:
    """A worker whose gradient is dense has no rows to send."""
    table = VariableSpec(name="t", shape=(9, 4), dtype="float32", sparse=True, rows=3, why_rows="a")
    other = replace(table, name="u", rows=4)
    assert merged([[table], [other]]) == [replace(table, rows=4)]
    agreed = merged([[table], [plain("v", 9, 4)]])
    assert agreed == [replace(plain("v", 9, 4), name="t")]


def test_a_missing_variable_is_named_on_either_side() -> None:
    kernel, bias = dense("fc", 64, 10)
    told = difference([kernel, bias], [kernel]) or ""
    assert "rank 0 has fc/bias float32 (10,), rank 1 has nothing" in told
    told = difference([kernel], [kernel, bias]) or ""
    assert "rank 0 has nothing, rank 1 has fc/bias" in told
