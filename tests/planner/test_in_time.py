"""Plans by the model of a step: worked examples, ties, and a search that finds what there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from poseidon_tf.errors import PlanError
from poseidon_tf.planner import (
    ClusterSpec,
    Host,
    Link,
    Machines,
    Outlook,
    Plan,
    Scheme,
    Sizes,
    Timeline,
    VariableSpec,
    gradient_times,
    make_plan,
    plan_in_time,
    read_times,
)
from tests.planner.planner_models import dense, plain

BYTE_PER_S = 8.0  # Bits.
TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
T = 3.0
APART = Sizes(coalesce_bytes=0)


def kernel(rows: int, name: str = "kernel") -> VariableSpec:
    """250 floats, 1000 bytes, a KV pair for each server; its factors have 140 bytes a row."""
    return VariableSpec(name=name, shape=(25, 10), dtype="float32", factors=(25, 10), rows=rows)


def outlook(machines: Machines, *names: str, exists_s: float = T) -> Outlook:
    """Of a step of 3 s, at whose end the gradients exist."""
    return Outlook(
        timeline=Timeline(T, dict.fromkeys(names, exists_s), dict.fromkeys(names, 0.0)),
        machines=machines,
    )


def schemes(plan: Plan) -> list[Scheme]:
    return [variable.scheme for variable in plan.variables]


def test_rebuild_that_takes_longer_than_the_bytes_it_saves() -> None:
    """At 1000 bytes a second the factors of one row are there after 3 + 0.14 s, the sum after
    3 + 1 + 0.5 s, as its last piece, a half, crosses a link again after it was received.

    A device of 100 FLOP/s multiplies the peer's row, 2 x 25 x 10 operations, in 5 s: 8.14 s.
    """
    machines = Machines(link=Link(bits_per_s=1000 * BYTE_PER_S), flops_per_s=100)
    foreseen = outlook(machines, "kernel")
    by_bytes = make_plan([kernel(1)], TWO)
    assert schemes(by_bytes) == [Scheme.SFB]
    assert foreseen.step_s(by_bytes) == pytest.approx(8.14)
    found = plan_in_time([kernel(1)], TWO, foreseen)
    assert schemes(found) == [Scheme.PS]
    assert foreseen.step_s(found) == pytest.approx(4.5)
    assert found.variables[0].reason == "PS: 4.5 s a step, 8.14 s by SFB, which has fewer bytes"
    fast = outlook(replace(machines, flops_per_s=1000), "kernel")
    assert schemes(plan_in_time([kernel(1)], TWO, fast)) == [Scheme.SFB]  # 3.64 s.


def test_latency_that_servers_cost_twice() -> None:
    """Factors of 8 rows are 1120 bytes, the gradient 1000, and both are nothing for this link.

    With a latency of 1 s a sum comes after 3 + 2 s, and factors, which go straight to the other
    worker, after 3 + 1 s.
    """
    link = Link(bits_per_s=1e6 * BYTE_PER_S, latency_s=1.0)
    foreseen = outlook(Machines(link=link), "kernel")
    by_bytes = make_plan([kernel(8)], TWO)
    assert schemes(by_bytes) == [Scheme.PS]
    assert foreseen.step_s(by_bytes) == pytest.approx(5.0015)
    found = plan_in_time([kernel(8)], TWO, foreseen)
    assert schemes(found) == [Scheme.SFB]
    assert foreseen.step_s(found) == pytest.approx(4.00112)


def test_a_slow_server_that_factors_pass_by() -> None:
    """Of four workers each sends 1000 bytes to four servers, or 3 x 3 x 140 to the others.

    Each server has a fourth of the gradient of four workers, 1000 bytes. The slow one takes 10 s
    for them at 100 bytes a second, and 2.5 s for its last piece, 250 bytes, again. By factors the
    scale comes last: behind 1260 bytes on a worker's link, and again over the slow one.
    """
    four = ClusterSpec(num_workers=4, num_servers=4, co_located=False)
    specs = [kernel(3), plain("scale", 1)]
    equal = Machines(link=Link(bits_per_s=1000 * BYTE_PER_S))
    unequal = replace(equal, slow_server=Link(bits_per_s=100 * BYTE_PER_S))
    foreseen = outlook(unequal, "kernel", "scale")
    by_bytes = make_plan(specs, four, coalesce_bytes=0)
    assert schemes(by_bytes) == [Scheme.PS, Scheme.PS]
    assert foreseen.step_s(by_bytes) == pytest.approx(3 + 10 + 2.5)
    found = plan_in_time(specs, four, foreseen, sizes=APART)
    assert schemes(found) == [Scheme.SFB, Scheme.PS]
    assert foreseen.step_s(found) == pytest.approx(3 + 1.264 + 0.04)
    alike = plan_in_time(specs, four, outlook(equal, "kernel", "scale"), sizes=APART)
    assert schemes(alike) == [Scheme.PS, Scheme.PS]  # 4.25 s, against 4.268 s.


def test_a_gain_below_one_per_cent_changes_nothing() -> None:
    """With a latency of 20 ms the second hop is 0.02 of 3.04 s; with 40 ms, 0.04 of 3.08 s."""
    short, long = (
        outlook(Machines(link=Link(bits_per_s=1e6 * BYTE_PER_S, latency_s=latency_s)), "kernel")
        for latency_s in (0.02, 0.04)
    )
    assert plan_in_time([kernel(8)], TWO, short) == make_plan([kernel(8)], TWO)
    assert schemes(plan_in_time([kernel(8)], TWO, long)) == [Scheme.SFB]


def test_of_equal_steps_the_one_with_fewer_bytes_is_taken() -> None:
    """All is there before the computation ends, by servers and by factors."""
    specs = [kernel(1, "few"), kernel(9, "many")]
    machines = Machines(link=Link(bits_per_s=1e6 * BYTE_PER_S))
    foreseen = outlook(machines, "few", "many", exists_s=1.0)
    found = plan_in_time(specs, TWO, foreseen)
    assert schemes(found) == [Scheme.SFB, Scheme.PS]
    assert found == make_plan(specs, TWO)


def test_across_the_step_a_late_result_may_be_hidden() -> None:
    """What the next step reads last has the whole forward pass to arrive; so nothing changes."""
    machines = Machines(link=Link(bits_per_s=1e6 * BYTE_PER_S, latency_s=0.5))
    timeline = Timeline(T, {"kernel": 2.0}, {"kernel": 1.5})
    in_step = Outlook(timeline=timeline, machines=replace(machines, slow_worker=None))
    across = replace(in_step, across_step=True)
    late = replace(in_step, timeline=Timeline(T, {"kernel": T}, {"kernel": 1.5}))
    assert schemes(plan_in_time([kernel(8)], TWO, late)) == [Scheme.SFB]
    assert schemes(plan_in_time([kernel(8)], TWO, replace(late, across_step=True))) == [Scheme.PS]
    assert schemes(plan_in_time([kernel(8)], TWO, across)) == [Scheme.PS]


LATENT = Machines(link=Link(bits_per_s=1e6 * BYTE_PER_S, latency_s=1.0))


MIB = 1 << 20


def servers_only(
    plan_sizes: Sizes | None, machines: Machines, *specs: VariableSpec
) -> tuple[Sizes, float]:
    """What is chosen of gradients that exist at the end of the computation, and the step."""
    foreseen = outlook(machines, *(spec.name for spec in specs))
    found = plan_in_time(specs, TWO, foreseen, schemes={"*": "ps"}, sizes=plan_sizes)
    return Sizes(found.kv_pair_bytes, found.coalesce_bytes), foreseen.step_s(found)


def test_pairs_are_large_where_messages_are_dear() -> None:
    """512 MiB on two servers are 512 pairs of 1 MiB. A worker sends 256 to the other's host and
    gets as many sums, and its server takes and gives as many: 1024 messages of a second. Pairs of
    4 MiB are 128; larger ones would be no fewer, as a server is given 64 at least.
    """
    dear = Machines(link=Link(bits_per_s=1e15), host=Host(cores=1, message_s=1.0, byte_s=0.0))
    large = plain("large", 128 * MIB)
    usual, usual_s = servers_only(Sizes(), dear, large)
    chosen, chosen_s = servers_only(None, dear, large)
    assert (usual, chosen) == (Sizes(), Sizes(kv_pair_bytes=4 * MIB))
    assert chosen_s - T == pytest.approx((usual_s - T) / 4, rel=0.02)


def test_pairs_stay_where_messages_cost_nothing() -> None:
    """Smaller ones would end 0.4 % sooner: the last one crosses the link when all have."""
    free = Machines(link=Link(bits_per_s=8.0 * 64 * MIB))
    assert servers_only(None, free, plain("large", 128 * MIB))[0] == Sizes()


def test_groups_are_small_where_one_gradient_comes_late() -> None:
    """64 of a MiB, of which the one in the middle exists last: seven others would wait for it."""
    specs = [plain(f"v{at}", MIB // 4) for at in range(64)]
    exists_s = {spec.name: T if spec.name == "v30" else 0.1 for spec in specs}
    timeline = Timeline(T, exists_s, dict.fromkeys(exists_s, 0.0))
    foreseen = Outlook(timeline=timeline, machines=Machines(link=Link(bits_per_s=8.0 * 32 * MIB)))
    usual, found = make_plan(specs, TWO), plan_in_time(specs, TWO, foreseen)
    assert len(usual.units) < len(found.units)
    assert found.coalesce_bytes < usual.coalesce_bytes
    assert foreseen.step_s(found) < 0.95 * foreseen.step_s(usual)


def test_what_the_user_asks_for_stays() -> None:
    """So do variables of which nothing is known, and products that workers make unequally."""
    specs = [kernel(8, "mine"), kernel(8, "free"), plain("plain", 25, 10)]
    foreseen = outlook(LATENT, "mine", "free", "plain")
    found = plan_in_time(specs, TWO, foreseen, schemes={"mi*": "ps"}, sizes=APART)
    assert schemes(found) == [Scheme.PS, Scheme.PS, Scheme.PS]  # The plain one is waited for.
    found = plan_in_time(specs[:2], TWO, foreseen, schemes={"mi*": "ps"}, sizes=APART)
    assert schemes(found)[0] is Scheme.PS
    alone = plan_in_time(specs[1:2], TWO, foreseen, arithmetic_differs="devices differ")
    assert schemes(alone) == [Scheme.PS]
    assert "devices differ" in alone.variables[0].reason


def test_biases_follow_and_tables_may_change_too() -> None:
    """A layer changes as one. Of a table 8 rows in two hops, or 5000 bytes in one."""
    layer = dense("layer", 25, 10, rows=8)
    names = [spec.name for spec in layer]
    found = plan_in_time(layer, TWO, outlook(LATENT, *names))
    assert schemes(found) == [Scheme.SFB, Scheme.SFB]
    table = VariableSpec(name="table", shape=(10, 25), dtype="float32", sparse=True, rows=50)
    assert schemes(make_plan([table], TWO)) == [Scheme.PS]
    assert schemes(plan_in_time([table], TWO, outlook(LATENT, "table"))) == [Scheme.ROWS]
    kept = replace(table, why_rows="Adam squares rows")
    assert schemes(plan_in_time([kept], TWO, outlook(LATENT, "table"))) == [Scheme.ROWS]


def test_one_worker_and_a_timeline_that_lacks_a_variable() -> None:
    one = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
    assert plan_in_time([kernel(8)], one, outlook(LATENT, "kernel")) == make_plan([kernel(8)], one)
    with pytest.raises(PlanError, match="it lacks 'kernel'"):
        plan_in_time([kernel(8)], TWO, outlook(LATENT, "other"))


def test_a_plan_in_time_is_a_plan_like_others() -> None:
    """It is written and read, and equal arguments give equal plans."""
    found = plan_in_time([kernel(8)], TWO, outlook(LATENT, "kernel"))
    assert Plan.from_json(found.to_json()) == found
    assert plan_in_time([kernel(8)], TWO, outlook(LATENT, "kernel")).digest() == found.digest()


def a_case(seed: int) -> tuple[list[VariableSpec], ClusterSpec, Outlook]:
    """A small network, a cluster and machines, of all sorts."""
    any_of = random.Random(seed)
    sizes = [64, 256, 1024, 4096]
    specs: list[VariableSpec] = []
    for at in range(any_of.randint(2, 6)):
        M, N, rows = any_of.choice(sizes), any_of.choice(sizes), any_of.choice([8, 64, 512])
        specs += dense(f"layer{at}", M, N, rows=rows)
        if any_of.random() < 0.3:
            specs.append(plain(f"conv{at}", any_of.choice([100, 10_000, 1_000_000])))
    num_workers, co_located = any_of.choice([2, 3, 4, 8]), any_of.random() < 0.6
    cluster = ClusterSpec(
        num_workers=num_workers,
        num_servers=num_workers if co_located else any_of.choice([1, 2, 4]),
        co_located=co_located,
    )
    slow = [None, None, Link(bits_per_s=1e8)]
    machines = Machines(
        link=Link(
            bits_per_s=10 ** any_of.uniform(8, 10.5), latency_s=any_of.choice([0.0, 5e-5, 5e-3])
        ),
        slow_worker=any_of.choice(slow),
        slow_server=any_of.choice(slow),
        host=any_of.choice([None, Host(cores=1), Host(cores=4)]),
        flops_per_s=any_of.choice([None, 1e11, 1e12, 1e13]),
    )
    work = [any_of.random() + 0.01 for _ in specs]
    shares = [part / sum(work) for part in work]
    compute_s = 10 ** any_of.uniform(-3, 0)
    names = [spec.name for spec in specs]
    timeline = Timeline(
        compute_s,
        dict(zip(names, gradient_times(shares, compute_s=compute_s), strict=True)),
        dict(zip(names, read_times(shares, compute_s=compute_s), strict=True)),
    )
    found = Outlook(timeline=timeline, machines=machines, across_step=any_of.random() < 0.5)
    return specs, cluster, found


def shortest_s(specs: Sequence[VariableSpec], cluster: ClusterSpec, foreseen: Outlook) -> float:
    """Of all plans that there are."""
    names = [spec.name for spec in specs if spec.factors]
    return min(
        foreseen.step_s(make_plan(specs, cluster, schemes=dict(zip(names, chosen, strict=True))))
        for chosen in itertools.product(["ps", "sfb"], repeat=len(names))
    )


@pytest.mark.exhaustive
def test_no_plan_is_more_than_one_per_cent_better() -> None:
    """Of small networks every plan is tried; nor is the plan by bytes ever better."""
    num_gains = 0
    for seed in range(100):
        specs, cluster, foreseen = a_case(seed)
        found_s = foreseen.step_s(plan_in_time(specs, cluster, foreseen))
        by_bytes_s = foreseen.step_s(make_plan(specs, cluster))
        assert found_s <= by_bytes_s
        assert found_s * 0.99 <= shortest_s(specs, cluster, foreseen) * (1 + 1e-6), seed
        num_gains += found_s < by_bytes_s
    assert num_gains > 10
