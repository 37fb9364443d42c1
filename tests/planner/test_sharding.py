"""What travels as one, and whether the servers share the work evenly."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from poseidon_tf.planner import ClusterSpec, Scheme, make_plan, sharding
from poseidon_tf.planner.plan import KVPair, Plan
from poseidon_tf.planner.specs import VariableSpec
from tests.planner.planner_models import (
    alexnet,
    conv,
    dense,
    digits_convnet,
    lstm,
    plain,
    resnet50,
    vgg19_22k,
)

KIB, MIB = 1 << 10, 1 << 20
MODELS = [vgg19_22k, alexnet, resnet50, lstm, digits_convnet]


def plan_for(specs: list[VariableSpec], servers: int, workers: int = 4, **options: Any) -> Plan:
    cluster = ClusterSpec(num_workers=workers, num_servers=servers, co_located=True)
    return make_plan(specs, cluster, **options)


def units_of(plan: Plan) -> list[tuple[str, list[str]]]:
    return [
        (unit.scheme.value, [plan.variables[at].name for at in unit.variables])
        for unit in plan.units
    ]


def assert_every_element_is_in_one_pair(plan: Plan) -> None:
    by_unit: dict[int, list[KVPair]] = {unit.index: [] for unit in plan.units}
    for pair in plan.pairs:
        by_unit[pair.unit].append(pair)
    assert list(plan.pairs) == sorted(plan.pairs, key=lambda pair: (pair.unit, pair.index))
    for unit in plan.units:
        pairs = by_unit[unit.index]
        if unit.scheme is Scheme.SFB:
            assert not pairs
            continue
        assert [pair.index for pair in pairs] == list(range(len(pairs)))
        end = 0
        for pair in pairs:
            assert pair.offset == end and pair.length > 0
            end += pair.length
        assert end == unit.num_elements


def assert_no_group_takes_more_than_it_may(
    plan: Plan, specs: list[VariableSpec], coalesce_bytes: int
) -> None:
    ps = [at for at, variable in enumerate(plan.variables) if variable.scheme is Scheme.PS]
    tiny = {at for at in ps if specs[at].num_bytes < coalesce_bytes / 256}
    total_bytes = sum(specs[at].num_bytes for at in ps)
    groups = [unit.variables for unit in plan.units if unit.scheme is Scheme.PS]
    for group in [group for group in groups if len(group) > 1]:
        before_last = sum(specs[at].num_bytes for at in group[:-1])
        passed = sum(specs[at].num_bytes for at in ps if at < group[-1])
        most = min(coalesce_bytes, passed / 4, (total_bytes - passed) / 4)
        assert before_last < (max(most, coalesce_bytes / 16) if group[-1] in tiny else most)
        assert all(at in tiny or specs[at].num_bytes < coalesce_bytes / 2 for at in group)
    for dtype in {specs[at].dtype for at in ps}:
        assert_tiny_ones_begin_no_group_early(
            [group for group in groups if specs[group[0]].dtype == dtype],
            tiny,
            lambda group: sum(specs[at].num_bytes for at in group) >= coalesce_bytes / 16,
        )


def assert_tiny_ones_begin_no_group_early(
    groups: list[tuple[int, ...]], tiny: set[int], is_full: Callable[[tuple[int, ...]], bool]
) -> None:
    """Where one does, the last that it could have joined has all that it may have there."""
    for at, group in enumerate(groups):
        shared = [k for k in range(at) if len(groups[k]) > 1 or groups[k][0] in tiny]
        if group[0] in tiny and shared:
            assert any(is_full(earlier) for earlier in groups[shared[-1] : at])


@pytest.mark.parametrize("all_ps", [False, True], ids=["hybrid", "all ps"])
@pytest.mark.parametrize("model", MODELS)
def test_the_fullest_server_holds_at_most_1_05_times_the_mean(
    model: Callable[[], list[VariableSpec]], all_ps: bool
) -> None:
    specs = model()
    for servers in range(1, 33):
        plan = plan_for(specs, servers, schemes={"*": "ps"} if all_ps else None)
        loads = plan.server_loads()
        assert len(loads) == servers
        assert max(loads) <= 1.05 * sum(loads) / servers, (servers, loads)
        assert_every_element_is_in_one_pair(plan)


@pytest.mark.parametrize("seed", range(30))
def test_random_models_are_covered_once_within_the_pair_size(seed: int) -> None:
    rng = random.Random(seed)
    specs = []
    for at in range(rng.randint(1, 40)):
        if rng.random() < 0.3:
            sides = rng.randint(1, 800), rng.randint(1, 800)
            specs += dense(f"fc{at}", *sides, rows=rng.choice([None, 1, 32]))
        else:
            shape = [rng.randint(1, 60) for _ in range(rng.randint(0, 4))]
            specs.append(plain(f"v{at}", *shape, dtype=rng.choice(["float16", "float64"])))
    rng.shuffle(specs)  # A bias may come before its kernel.
    largest = rng.choice([4096, 65536, 1 << 20])
    coalesce_bytes = rng.choice([0, 10_000, 1 << 20])
    options = {"kv_pair_bytes": largest, "coalesce_bytes": coalesce_bytes}
    plan = plan_for(specs, rng.randint(1, 32), **options)
    assert_every_element_is_in_one_pair(plan)
    held = sorted(at for unit in plan.units for at in unit.variables)
    assert held == list(range(len(specs)))
    for pair in plan.pairs:
        assert pair.length * specs[plan.units[pair.unit].variables[0]].itemsize <= largest
    for unit in plan.units:
        assert {plan.variables[at].scheme for at in unit.variables} == {unit.scheme}
        assert {plan.variables[at].dtype for at in unit.variables} == {unit.dtype}
    assert_no_group_takes_more_than_it_may(plan, specs, coalesce_bytes)


@pytest.mark.parametrize(
    "num_bytes, pair_bytes",
    [
        (1 << 22, 1 << 16),  # No smaller, although there are not 64 for each server.
        (1 << 26, 1 << 18),  # A 64th of a server's share.
        (1 << 30, 1 << 20),  # The largest that is cut by default.
    ],
)
def test_a_large_variable_is_striped_over_all_servers(num_bytes: int, pair_bytes: int) -> None:
    plan = plan_for([plain("v", num_bytes // 4)], servers=4)
    assert [pair.server for pair in plan.pairs[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert {4 * pair.length for pair in plan.pairs} == {pair_bytes}


def test_pairs_are_made_smaller_where_that_balances_the_servers() -> None:
    plan = plan_for([plain("v", 5 * (1 << 16) // 4)], servers=4)
    assert {4 * pair.length for pair in plan.pairs} == {5 * (1 << 13)}  # Of 5 times 64 KiB.
    assert set(plan.server_loads()) == {5 * (1 << 14)}


def test_only_the_largest_pairs_are_made_smaller() -> None:
    """As in VGG19, cut alike everything would be in 49 pairs."""
    sizes = [288, 2304, 4608, 9216, 18432, *[36864] * 3, 73728, *[147456] * 7]
    specs = [plain(f"conv{at}", size // 4) for at, size in enumerate(sizes)]
    plan = plan_for(specs, servers=8, coalesce_bytes=0)
    num_pairs = [sum(pair.unit == unit.index for pair in plan.pairs) for unit in plan.units]
    assert num_pairs[:8] == [1] * 8 and sum(num_pairs) < 40
    assert max(plan.server_loads()) <= 1.05 * sum(plan.server_loads()) / 8


def test_many_servers_are_balanced_in_few_rounds() -> None:
    """Some thousand pairs: their number grows by a share of it, not one by one."""
    rounds = 0
    count = sharding._largest_first

    def counted(*args: Any) -> tuple[list[int], int]:
        nonlocal rounds
        rounds += 1
        return count(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_largest_first", counted)
        plan_for([plain(f"v{at}", 1 << 18) for at in range(3)], servers=1000)
    assert rounds < 120


def test_no_pair_is_larger_than_asked_for() -> None:
    plan = plan_for([plain("v", 1 << 20)], servers=4, kv_pair_bytes=4096)
    assert {4 * pair.length for pair in plan.pairs} == {4096}


def test_fewer_elements_than_servers_are_still_all_held() -> None:
    plan = plan_for([plain("a"), plain("b", 3)], servers=32)
    assert_every_element_is_in_one_pair(plan)
    assert max(plan.server_loads()) == 4


def test_without_servers_there_are_no_pairs() -> None:
    assert plan_for(alexnet(), servers=0, workers=1).pairs == ()


def test_a_tiny_model_is_not_cut_into_crumbs() -> None:
    plan = plan_for(digits_convnet(), servers=32, schemes={"*": "ps"})
    assert len(plan.pairs) < 4 * 32


def test_tiny_variables_travel_together_until_they_have_1_mib() -> None:
    specs = [plain(f"v{at}", 32 * KIB // 4) for at in range(34)]
    names = [spec.name for spec in specs]
    assert units_of(plan_for(specs, 2)) == [("ps", names[:32]), ("ps", names[32:])]


def test_the_last_one_may_take_them_beyond_it() -> None:
    specs = [plain(f"v{at}", 196 // 4) for at in range(24)]
    units = [names for _, names in units_of(plan_for(specs, 2, coalesce_bytes=16 * 3200))]
    assert [len(names) for names in units] == [17, 7]  # 3332 bytes, 1372 bytes.


def test_64_kib_are_not_tiny() -> None:
    specs = [plain("a", 1024), plain("b", 64 * KIB // 4), plain("c", 64 * KIB // 4 - 1)]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [["a", "c"], ["b"]]


def test_neighbours_join_more_the_further_they_are_from_both_ends() -> None:
    """Where backpropagation begins the link would wait for them, where it ends the step."""
    specs = [plain(f"v{at}", MIB // 4) for at in range(128)]
    sizes = [len(names) for _, names in units_of(plan_for(specs, 2))]
    assert sizes[:9] == [1] * 9 and sizes[-8:] == [1] * 8
    largest = sizes.index(max(sizes))
    assert 12 < sizes[largest] <= 16 and 12 < sum(sizes[:largest]) < 128 - 12
    assert sizes[:largest] == sorted(sizes[:largest])
    assert sizes[largest:] == sorted(sizes[largest:], reverse=True)


def test_only_tiny_ones_join_across_a_large_one() -> None:
    large = [plain(f"large{at}", 100 * MIB // 4) for at in range(3)]
    tiny = [plain(f"tiny{at}", 8) for at in range(2)]
    medium = [plain(f"medium{at}", MIB // 4) for at in range(4)]
    specs = [large[0], tiny[0], *medium[:2], large[1], *medium[2:], tiny[1], large[2]]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [
        ["large0"],
        ["tiny0", "medium0", "medium1"],
        ["large1"],
        ["medium2", "medium3", "tiny1"],
        ["large2"],
    ]
    specs = [large[0], tiny[0], large[1], tiny[1], large[2]]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [
        ["large0"],
        ["tiny0", "tiny1"],
        ["large1"],
        ["large2"],
    ]


def test_half_of_what_a_group_may_have_is_alone() -> None:
    large = [plain(f"large{at}", 100 * MIB // 4) for at in range(2)]
    medium = [plain("a", 1000), plain("b", 1001), plain("c", 1000), plain("d", 1000)]
    specs = [large[0], *medium, large[1]]
    units = [names for _, names in units_of(plan_for(specs, 2, coalesce_bytes=8004))]
    assert units == [["large0"], ["a"], ["b"], ["c", "d"], ["large1"]]


def test_a_deep_network_needs_few_exchanges() -> None:
    plan = plan_for(resnet50(), 4)
    assert len(plan.variables) == 161
    assert len(plan.units) < 35


def test_0_leaves_each_on_its_own() -> None:
    plan = plan_for([plain("a"), plain("b", 8), *conv("c", 3, 4, 4)], 2, coalesce_bytes=0)
    assert [unit.variables for unit in plan.units] == [(0,), (1,), (2,), (3,)]


def test_a_large_variable_is_alone_and_parts_no_small_ones() -> None:
    specs = [*conv("c1", 3, 64, 64), plain("gamma", 64), *conv("c2", 3, 64, 64)]
    assert units_of(plan_for(specs, 2)) == [
        ("ps", ["c1/kernel"]),
        ("ps", ["c1/bias", "gamma", "c2/bias"]),
        ("ps", ["c2/kernel"]),
    ]


def test_types_do_not_mix_in_a_unit_and_part_none_of_the_other() -> None:
    specs = [plain(f"v{at}", 8, dtype=("float32", "float16")[at % 2]) for at in range(4)]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [["v0", "v2"], ["v1", "v3"]]


def test_a_kernel_and_its_bias_are_one_unit_and_do_not_part_small_neighbours() -> None:
    kernel, bias = dense("fc", 2048, 2048, rows=4)
    plan = plan_for([plain("a", 8), bias, kernel, plain("b", 8)], 2)
    assert units_of(plan) == [("ps", ["a", "b"]), ("sfb", ["fc/kernel", "fc/bias"])]
    assert plan.units[1].num_elements == 2048 * 2048
