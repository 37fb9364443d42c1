"""Which scheme a variable takes, and what the plan says about it."""

import dataclasses
import random
import subprocess
import sys
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.planner import ClusterSpec, Scheme, make_plan
from poseidon_tf.planner.plan import Plan
from poseidon_tf.planner.units import RULES
from tests.planner.planner_models import alexnet, conv, dense, plain


def nodes(count: int) -> ClusterSpec:
    return ClusterSpec(num_workers=count, num_servers=count, co_located=True)


def schemes_of(plan: Plan) -> dict[str, str]:
    return {variable.name: variable.scheme.value for variable in plan.variables}


def reason_of(plan: Plan, name: str) -> str:
    return next(variable.reason for variable in plan.variables if variable.name == name)


def test_dense_layers_take_factors_and_convolutions_take_the_servers() -> None:
    schemes = schemes_of(make_plan(alexnet(), nodes(8)))
    assert {name.split("/")[0] for name, scheme in schemes.items() if scheme == "sfb"} == {
        "fc6",
        "fc7",
        "fc8",
    }


def test_a_reason_shows_both_sides_of_the_rule() -> None:
    plan = make_plan(dense("fc7", 4096, 4096), nodes(8))
    assert reason_of(plan, "fc7/kernel") == "2K(P1-1)(M+N) = 3.7 M <= 2MN(P1+P2-2)/P2 = 58.7 M"
    assert reason_of(plan, "fc7/bias") == "column sum of fc7/kernel's factor"
    small = make_plan(dense("fc", 64, 10), nodes(2))
    assert reason_of(small, "fc/kernel") == "2K(P1-1)(M+N) = 4.7 k > 2MN(P1+P2-2)/P2 = 1.3 k"
    assert reason_of(small, "fc/bias") == "PS: its kernel goes through the parameter server"


def test_the_chosen_scheme_is_never_dearer_than_the_other() -> None:
    rng = random.Random(5)
    for _ in range(200):
        specs = dense("fc", rng.randint(1, 600), rng.randint(1, 600), rows=rng.randint(1, 300))
        kernel = make_plan(specs, nodes(rng.randint(2, 32))).variables[0]
        assert kernel.sfb_bytes is not None
        assert kernel.node_bytes == min(kernel.ps_bytes, kernel.sfb_bytes)


def test_one_worker_sends_nothing() -> None:
    for servers in (0, 2):
        cluster = ClusterSpec(num_workers=1, num_servers=servers, co_located=True)
        plan = make_plan(alexnet(), cluster, schemes={"fc*": "sfb"})
        assert {variable.scheme for variable in plan.variables} == {Scheme.PS}
        assert {variable.reason for variable in plan.variables} == {"one worker: nothing to send"}
        assert plan.worker_bytes_per_step() == plan.node_bytes_per_step() == 0


def test_unknown_rows_go_through_the_servers_and_say_what_to_pass() -> None:
    plan = make_plan(dense("fc", 4096, 4096, rows=None), nodes(4))
    assert schemes_of(plan) == {"fc/kernel": "ps", "fc/bias": "ps"}
    assert reason_of(plan, "fc/kernel") == "PS: rows unknown: pass rows_per_step="
    kernel, bias = dense("fc", 4096, 4096, rows=None)
    late = dataclasses.replace(kernel, why_not="its sequences have any length")
    plan = make_plan([late, bias], nodes(4))
    assert reason_of(plan, "fc/kernel") == "PS: rows unknown: its sequences have any length"


def test_no_product_goes_through_the_servers_and_says_why() -> None:
    plan = make_plan(conv("conv", 3, 8, 8), nodes(4))
    assert reason_of(plan, "conv/kernel") == "PS: a convolution"
    assert reason_of(make_plan([plain("v", 3, why_not="")], nodes(4)), "v") == "PS: no product"


def test_unequal_arithmetic_keeps_factors_for_those_who_ask() -> None:
    specs = [*dense("fc1", 4096, 4096), *dense("fc2", 4096, 4096)]
    told = "rank 1 has no AVX-512"
    plan = make_plan(specs, nodes(4), schemes={"fc2/*": "sfb"}, arithmetic_differs=told)
    assert reason_of(plan, "fc1/kernel") == f"PS: {told}"
    assert schemes_of(plan)["fc2/kernel"] == schemes_of(plan)["fc2/bias"] == "sfb"


def test_the_last_matching_pattern_wins_and_a_star_crosses_slashes() -> None:
    specs = [*dense("seq/fc1", 4096, 4096), *dense("seq/fc2", 4096, 4096)]
    plan = make_plan(specs, nodes(4), schemes={"*kernel": "ps", "seq/fc2/*": "sfb"})
    assert schemes_of(plan) == {
        "seq/fc1/kernel": "ps",
        "seq/fc1/bias": "ps",
        "seq/fc2/kernel": "sfb",
        "seq/fc2/bias": "sfb",
    }
    assert reason_of(plan, "seq/fc2/kernel") == "asked for by 'seq/fc2/*'"


def test_a_bias_can_be_sent_to_the_servers_on_its_own() -> None:
    plan = make_plan(dense("fc", 4096, 4096), nodes(4), schemes={"*bias": "ps"})
    assert schemes_of(plan) == {"fc/kernel": "sfb", "fc/bias": "ps"}
    assert [unit.variables for unit in plan.units] == [(0,), (1,)]


@pytest.mark.parametrize(
    "schemes, told",
    [
        ({"fc9/*": "sfb"}, "'fc9/\\*' matches no variable.*conv/kernel.*fc/kernel"),
        ({"fc/*": "ring"}, "'ps', 'sfb' or 'rows', got 'ring'"),
        ({"conv/kernel": "sfb"}, "'conv/kernel' cannot be 'sfb'.*a convolution"),
        ({"late/kernel": "sfb"}, "'late/kernel' cannot be 'sfb'.*pass rows_per_step="),
        ({"fc/kernel": "ps", "fc/bias": "sfb"}, "'fc/bias' cannot be 'sfb'.*its kernel"),
    ],
)
def test_an_override_that_cannot_be_kept_is_an_error(schemes: dict[str, str], told: str) -> None:
    specs = [*conv("conv", 3, 8, 8), *dense("fc", 99, 99), *dense("late", 9, 9, rows=None)]
    with pytest.raises(PlanError, match=told):
        make_plan(specs, nodes(2), schemes=schemes)


@pytest.mark.parametrize("kv_pair_bytes", [0, 4095, 64 * 1024 * 1024 + 1])
def test_a_pair_size_out_of_range_is_refused(kv_pair_bytes: int) -> None:
    with pytest.raises(ConfigError, match="kv_pair_bytes"):
        make_plan(alexnet(), nodes(2), kv_pair_bytes=kv_pair_bytes)


@pytest.mark.parametrize("coalesce_bytes", [-1, 64 * 1024 * 1024 + 1])
def test_a_group_size_out_of_range_is_refused(coalesce_bytes: int) -> None:
    with pytest.raises(ConfigError, match="coalesce_bytes must be from 0 to 67108864, got"):
        make_plan(alexnet(), nodes(2), coalesce_bytes=coalesce_bytes)


def test_a_bias_without_its_kernel_is_refused() -> None:
    with pytest.raises(PlanError, match="'fc/bias' is the bias of 'fc/kernel'"):
        make_plan(dense("fc", 8, 8)[1:], nodes(2))


def test_a_worker_counts_what_it_sends_its_own_server() -> None:
    plan = make_plan([plain("v", 1000), *dense("fc", 4096, 512, rows=4)], nodes(4))
    v, kernel, bias = plan.variables
    assert v.worker_bytes == 2 * 4000
    assert kernel.worker_bytes == 2 * 3 * 4 * (4096 + 512) * 4
    assert bias.worker_bytes == bias.sfb_bytes == 0
    assert kernel.rebuild_flops == 2 * 4 * 4 * 4096 * 512


def test_the_columns_are_those_of_the_clusters_nodes() -> None:
    specs = dense("fc", 4096, 4096)
    together = make_plan(specs, nodes(8)).variables[0]
    dedicated = ClusterSpec(num_workers=8, num_servers=8, co_located=False)
    apart = make_plan(specs, dedicated).variables[0]
    millions = [
        (column or 0) / 4e6
        for plan in (together, apart)
        for column in (plan.ps_bytes, plan.sfb_bytes, plan.adam_bytes)
    ]
    assert millions == pytest.approx([58.7, 3.67, 119.3, 33.6, 3.67, 136.3], abs=0.06)


@pytest.mark.processes
def test_planning_loads_neither_tensorflow_nor_a_table_printer() -> None:
    code = """
import sys
from poseidon_tf.planner import *
from poseidon_tf.planner import ClusterSpec, VariableSpec, make_plan
spec = VariableSpec(name="v", shape=(3,), dtype="float32")
plan = make_plan([spec], ClusterSpec(num_workers=2, num_servers=1, co_located=True))
def ours(): return {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
assert not ours() & {"tabulate", "tensorflow", "numpy", "grpc", "keras"}, ours()
inner = {n for n in sys.modules if n.startswith("poseidon_tf.")}
outside = {n for n in inner if not n.startswith("poseidon_tf.planner")}
assert outside <= {"poseidon_tf.errors"}, outside
plan.table()
assert "tabulate" in ours()
assert "tensorflow" not in ours()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_scheme_has_rules_and_every_column_has_its_bytes() -> None:
    """A new one is a file in `schemes`, a line in the table and a column of the plan."""
    assert set(RULES) == set(Scheme)
    assert all(rules.scheme is scheme for scheme, rules in RULES.items())
    variable = make_plan(alexnet(), nodes(2)).variables[0]
    for scheme in Scheme:
        columns: dict[str, Any] = {f"{scheme}_bytes": 77}
        priced = dataclasses.replace(variable, scheme=scheme, **columns)
        assert priced.node_bytes == 77


def test_what_is_read_first_has_the_least_priority_whatever_its_scheme() -> None:
    """Units of both schemes in the order of the model, a group by its first variable."""
    plan = make_plan(alexnet(), nodes(8))
    assert {unit.scheme for unit in plan.units} == {Scheme.PS, Scheme.SFB}
    in_order = sorted(plan.units, key=lambda unit: unit.priority)
    assert [min(unit.variables) for unit in in_order] == sorted(
        min(u.variables) for u in plan.units
    )
    priorities = [unit.priority for unit in in_order]
    assert len(set(priorities)) == len(priorities) and priorities[0] > 0
