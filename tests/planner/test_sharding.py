"""What travels as one, and whether the servers share the work evenly."""

import random

import pytest
from planner_models import (
    alexnet,
    conv,
    dense,
    digits_convnet,
    lstm,
    plain,
    resnet50,
    vgg19_22k,
)

from poseidon_tf.planner import ClusterSpec, Scheme, make_plan, sharding
from poseidon_tf.planner.sharding import SMALL_BYTES

MODELS = [vgg19_22k, alexnet, resnet50, lstm, digits_convnet]


def plan_for(specs, servers, workers=4, **options):
    cluster = ClusterSpec(num_workers=workers, num_servers=servers, co_located=True)
    return make_plan(specs, cluster, **options)


def units_of(plan):
    return [
        (unit.scheme.value, [plan.variables[at].name for at in unit.variables])
        for unit in plan.units
    ]


def assert_every_element_is_in_one_pair(plan):
    by_unit = {unit.index: [] for unit in plan.units}
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


@pytest.mark.parametrize("all_ps", [False, True], ids=["hybrid", "all ps"])
@pytest.mark.parametrize("model", MODELS)
def test_the_fullest_server_holds_at_most_1_05_times_the_mean(model, all_ps):
    specs = model()
    for servers in range(1, 33):
        plan = plan_for(specs, servers, schemes={"*": "ps"} if all_ps else None)
        loads = plan.server_loads()
        assert len(loads) == servers
        assert max(loads) <= 1.05 * sum(loads) / servers, (servers, loads)
        assert_every_element_is_in_one_pair(plan)


@pytest.mark.parametrize("seed", range(30))
def test_random_models_are_covered_once_within_the_pair_size(seed):
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
    small_bytes = min(SMALL_BYTES, coalesce_bytes / 4)
    together = [unit.variables for unit in plan.units if unit.scheme is Scheme.PS]
    for variables in [variables for variables in together if len(variables) > 1]:
        sizes = [specs[at].num_bytes for at in variables]
        assert max(sizes) < small_bytes and sum(sizes[:-1]) < coalesce_bytes
    for dtype in {spec.dtype for spec in specs}:
        sizes = [
            sum(specs[at].num_bytes for at in variables)
            for variables in together
            if specs[variables[0]].dtype == dtype
            and all(specs[at].num_bytes < small_bytes for at in variables)
        ]
        assert all(size >= coalesce_bytes for size in sizes[:-1])


@pytest.mark.parametrize(
    "num_bytes, pair_bytes",
    [
        (1 << 22, 1 << 16),  # No smaller, although there are not 64 for each server.
        (1 << 26, 1 << 18),  # A 64th of a server's share.
        (1 << 30, 1 << 20),  # The largest that is cut by default.
    ],
)
def test_a_large_variable_is_striped_over_all_servers(num_bytes, pair_bytes):
    plan = plan_for([plain("v", num_bytes // 4)], servers=4)
    assert [pair.server for pair in plan.pairs[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert {4 * pair.length for pair in plan.pairs} == {pair_bytes}


def test_pairs_are_made_smaller_where_that_balances_the_servers():
    plan = plan_for([plain("v", 5 * (1 << 16) // 4)], servers=4)
    assert {4 * pair.length for pair in plan.pairs} == {5 * (1 << 13)}  # Of 5 times 64 KiB.
    assert set(plan.server_loads()) == {5 * (1 << 14)}


def test_only_the_largest_pairs_are_made_smaller():
    """As in VGG19, cut alike everything would be in 49 pairs."""
    sizes = [288, 2304, 4608, 9216, 18432, *[36864] * 3, 73728, *[147456] * 7]
    specs = [plain(f"conv{at}", size // 4) for at, size in enumerate(sizes)]
    plan = plan_for(specs, servers=8, coalesce_bytes=0)
    num_pairs = [sum(pair.unit == unit.index for pair in plan.pairs) for unit in plan.units]
    assert num_pairs[:8] == [1] * 8 and sum(num_pairs) < 40
    assert max(plan.server_loads()) <= 1.05 * sum(plan.server_loads()) / 8


def test_many_servers_are_balanced_in_few_rounds():
    """Some thousand pairs: their number grows by a share of it, not one by one."""
    rounds = 0
    count = sharding._largest_first

    def counted(*args):
        nonlocal rounds
        rounds += 1
        return count(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_largest_first", counted)
        plan_for([plain(f"v{at}", 1 << 18) for at in range(3)], servers=1000)
    assert rounds < 120


def test_no_pair_is_larger_than_asked_for():
    plan = plan_for([plain("v", 1 << 20)], servers=4, kv_pair_bytes=4096)
    assert {4 * pair.length for pair in plan.pairs} == {4096}


def test_fewer_elements_than_servers_are_still_all_held():
    plan = plan_for([plain("a"), plain("b", 3)], servers=32)
    assert_every_element_is_in_one_pair(plan)
    assert max(plan.server_loads()) == 4


def test_without_servers_there_are_no_pairs():
    assert plan_for(alexnet(), servers=0, workers=1).pairs == ()


def test_a_tiny_model_is_not_cut_into_crumbs():
    plan = plan_for(digits_convnet(), servers=32, schemes={"*": "ps"})
    assert len(plan.pairs) < 4 * 32


def test_small_variables_travel_together_until_they_have_1_mib():
    specs = [plain(f"v{at}", 8 * 1024) for at in range(34)]  # 32 KiB each.
    names = [spec.name for spec in specs]
    assert units_of(plan_for(specs, 2)) == [("ps", names[:32]), ("ps", names[32:])]


def test_64_kib_are_not_small():
    assert SMALL_BYTES == 64 * 1024
    specs = [plain("a", 1024), plain("b", 16 * 1024), plain("c", 16 * 1024 - 1)]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [["a", "c"], ["b"]]


def test_the_last_one_may_take_them_beyond_it():
    specs = [plain(f"v{at}", 199) for at in range(8)]
    units = [names for _, names in units_of(plan_for(specs, 2, coalesce_bytes=3200))]
    assert units == [["v0", "v1", "v2", "v3", "v4"], ["v5", "v6", "v7"]]  # 3980 bytes, 2388 bytes.


def test_a_quarter_is_not_small():
    specs = [plain("a", 199), plain("b", 200), plain("c", 199)]
    units = [names for _, names in units_of(plan_for(specs, 2, coalesce_bytes=3200))]
    assert units == [["a", "c"], ["b"]]


def test_0_leaves_each_on_its_own():
    plan = plan_for([plain("a"), plain("b", 8), *conv("c", 3, 4, 4)], 2, coalesce_bytes=0)
    assert [unit.variables for unit in plan.units] == [(0,), (1,), (2,), (3,)]


def test_a_large_variable_is_alone_and_parts_no_small_ones():
    specs = [*conv("c1", 3, 64, 64), plain("gamma", 64), *conv("c2", 3, 64, 64)]
    assert units_of(plan_for(specs, 2)) == [
        ("ps", ["c1/kernel"]),
        ("ps", ["c1/bias", "gamma", "c2/bias"]),
        ("ps", ["c2/kernel"]),
    ]


def test_types_do_not_mix_in_a_unit_and_part_none_of_the_other():
    specs = [plain(f"v{at}", 8, dtype=("float32", "float16")[at % 2]) for at in range(4)]
    assert [names for _, names in units_of(plan_for(specs, 2))] == [["v0", "v2"], ["v1", "v3"]]


def test_a_kernel_and_its_bias_are_one_unit_and_do_not_part_small_neighbours():
    kernel, bias = dense("fc", 2048, 2048, rows=4)
    plan = plan_for([plain("a", 8), bias, kernel, plain("b", 8)], 2)
    assert units_of(plan) == [("ps", ["a", "b"]), ("sfb", ["fc/kernel", "fc/bias"])]
    assert plan.units[1].num_elements == 2048 * 2048
