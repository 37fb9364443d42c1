"""Specs are valid once built, and two workers' specs can be compared."""

import json

import pytest
from planner_models import alexnet, dense, plain

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner import ClusterSpec, VariableSpec, first_difference


def difference(mine, theirs):
    return first_difference(mine, theirs, mine_is="rank 0", theirs_is="rank 1")


@pytest.mark.parametrize("workers, servers", [(0, 1), (2, 0), (1, -1)])
def test_an_impossible_cluster_is_refused(workers, servers):
    with pytest.raises(ConfigError):
        ClusterSpec(num_workers=workers, num_servers=servers, co_located=True)


def test_one_worker_needs_no_server():
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
def test_an_impossible_variable_is_refused_and_the_reason_is_named(wrong, names):
    right = {"name": "fc/kernel", "shape": (4, 5), "dtype": "float32"}
    with pytest.raises(ConfigError, match=names):
        VariableSpec(**{**right, **wrong})


@pytest.mark.parametrize("dtype, size", [("float16", 2), ("bfloat16", 2), ("float64", 8)])
def test_bytes_follow_the_dtype(dtype, size):
    assert plain("v", 3, 5, dtype=dtype).num_bytes == 15 * size
    assert plain("v", dtype=dtype).num_elements == 1  # a scalar


def test_specs_survive_json():
    for spec in alexnet():
        assert VariableSpec.from_json_dict(json.loads(json.dumps(spec.to_json_dict()))) == spec


@pytest.mark.parametrize("change", [{"shape": 7}, {"factors": [1]}, {"dtype": None}])
def test_json_that_is_no_spec_is_refused(change):
    with pytest.raises(ConfigError):
        VariableSpec.from_json_dict({**plain("v", 3).to_json_dict(), **change})
    with pytest.raises(ConfigError):
        VariableSpec.from_json_dict({})


def test_equal_models_under_other_names_do_not_differ():
    assert difference(dense("seq/fc1", 64, 10), dense("seq_1/fc1", 64, 10)) is None


def test_a_difference_names_the_variable_and_both_values():
    front = dense("seq/fc0", 8, 64)
    mine = [*front, *dense("seq/fc1", 64, 10)]
    theirs = [*front, *dense("seq_1/fc1", 64, 12)]
    assert difference(mine, theirs) == (
        "variable 2: rank 0 has seq/fc1/kernel float32 (64, 10), "
        "rank 1 has seq_1/fc1/kernel float32 (64, 12)"
    )


def test_a_difference_that_shape_and_dtype_hide_is_spelled_out():
    told = difference(dense("fc", 64, 10, rows=32), dense("fc", 64, 10, rows=16))
    assert "[rows 32]" in told and "[rows 16]" in told
    kernel, bias = dense("fc", 64, 10)
    assert "[bias of variable 0]" in difference([kernel, bias], [kernel, plain("fc/bias", 10)])


def test_a_missing_variable_is_named_on_either_side():
    kernel, bias = dense("fc", 64, 10)
    assert "rank 0 has fc/bias float32 (10,), rank 1 has nothing" in difference(
        [kernel, bias], [kernel]
    )
    assert "rank 0 has nothing, rank 1 has fc/bias" in difference([kernel], [kernel, bias])
