"""The model of a step: worked examples, a cluster whose every message is followed, and trends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poseidon_tf.errors import PlanError
from poseidon_tf.kv.client import WINDOW_BYTES
from poseidon_tf.planner import (
    ClusterSpec,
    Host,
    Link,
    Machines,
    Plan,
    Prediction,
    Summing,
    Timeline,
    VariableSpec,
    gradient_times,
    make_plan,
    predict,
    read_times,
)
from poseidon_tf.planner.exchanges import Exchange, exchanges_of, group_size
from poseidon_tf.planner.machines import CREDIT_BYTES
from poseidon_tf.planner.simulate import predict_exchanges
from tests.planner.every_message import followed_step_s
from tests.planner.planner_models import conv, dense

BYTE_PER_S = 8.0  # Bits.


def two_layers(
    schemes: dict[str, str], cluster: ClusterSpec, wire_dtype: str | None = None
) -> Plan:
    """Kernels of 250 floats, 1000 bytes each, in one KV pair each."""
    specs = [
        VariableSpec(name=name, shape=(25, 10), dtype="float32", factors=(25, 10), rows=1)
        for name in ("bottom", "top")
    ]
    return make_plan(specs, cluster, schemes=schemes, coalesce_bytes=0, wire_dtype=wire_dtype)


TWO = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
TIMES = Timeline(3.0, {"bottom": 3.0, "top": 2.0}, {"bottom": 0.0, "top": 0.5})


def step_s(plan: Plan, machines: Machines, summing: Summing = Summing.SERVERS) -> float:
    return predict(plan, TIMES, machines, summing=summing).step_s


def test_in_the_step_everything_is_waited_for() -> None:
    """Two co-located workers send 1000 bytes of each layer: half as push, half as sum.

    At 500 bytes a second the top's take from 2 to 4 s and the bottom's from 4 to 6 s. With no
    computation meanwhile they would take 4 s, of which 3 are waited for.
    """
    plan = two_layers({"*": "ps"}, TWO)
    link = Link(bits_per_s=500 * BYTE_PER_S)
    found = predict(plan, TIMES, Machines(link=replace(link, latency_s=0)))
    last_pieces = 1000 / 500  # Each crosses the link again, whole.
    assert found.step_s == pytest.approx(6.0 + last_pieces)
    assert found.communication_s == pytest.approx(4.0 + last_pieces)
    assert found.speedup == pytest.approx(2 * 3.0 / 8.0)
    assert found.hidden == pytest.approx(1 - 5.0 / 6.0)


def exchanges(node_bytes: float = 1000.0) -> list[Exchange]:
    """Those of the two layers, of many small pieces."""
    return [
        Exchange("bottom", exists_s=3.0, needed_s=0.0, node_bytes=node_bytes),
        Exchange("top", exists_s=2.0, needed_s=0.5, node_bytes=node_bytes),
    ]


def predicted(
    found: list[Exchange], machines: Machines, *, across_step: bool = False
) -> Prediction:
    return predict_exchanges(found, machines, num_workers=2, compute_s=3.0, across_step=across_step)


def test_across_the_step_the_bottom_goes_first_and_the_top_is_waited_for_later() -> None:
    """The top's 2 s begin at 2 s, are left at 3 s for the bottom's, and end at 6 s.

    The next step reads the bottom at 5 s, 2 s late, and the top 0.5 s after that: it waits for it
    until 6 s, 2.5 s later than without waiting. In the step it would have been 3 s.
    """
    machines = Machines(link=Link(bits_per_s=500 * BYTE_PER_S))
    assert predicted(exchanges(), machines).step_s == pytest.approx(6.0)
    assert predicted(exchanges(), machines, across_step=True).step_s == pytest.approx(5.5)


def test_latency_is_added_once_per_hop() -> None:
    """2 hops of 0.25 s after the last byte."""
    machines = Machines(link=Link(bits_per_s=500 * BYTE_PER_S, latency_s=0.25))
    hops = [exchange._replace(hops=2) for exchange in exchanges()]
    assert predicted(hops, machines).step_s == pytest.approx(6.5)


def test_headers_take_their_part_of_the_link() -> None:
    """A quarter: 500 of 2000 / 3 bytes a second are left."""
    link = Link(bits_per_s=2000 / 3 * BYTE_PER_S, payload_share=0.75)
    assert predicted(exchanges(), Machines(link=link)).step_s == pytest.approx(6.0)


def test_the_slowest_worker_is_waited_for() -> None:
    """At half the speed the top's bytes take from 2 to 6 s, the bottom's to 10 s."""
    fast, slow = Link(bits_per_s=500 * BYTE_PER_S), Link(bits_per_s=250 * BYTE_PER_S)
    assert predicted(exchanges(), Machines(link=fast, slow_worker=slow)).step_s == 10.0
    assert predicted(exchanges(), Machines(link=fast, slow_server=slow)).step_s == 10.0


def test_a_dedicated_servers_link_carries_every_worker() -> None:
    """3000 bytes of each layer at 500 a second: from 2 to 8 s, and to 14 s.

    A server of a third of the speed needs 18 s for each: 2 + 36 s.
    """
    found = [exchange._replace(server_bytes=3000.0) for exchange in exchanges()]
    fast, slow = Link(bits_per_s=500 * BYTE_PER_S), Link(bits_per_s=500 / 3 * BYTE_PER_S)
    assert predicted(found, Machines(link=fast)).step_s == pytest.approx(14.0)
    assert predicted(found, Machines(link=fast, slow_server=slow)).step_s == pytest.approx(38.0)


@pytest.mark.parametrize("summing", list(Summing))
def test_dedicated_servers_that_nothing_goes_through_slow_nobody(summing: Summing) -> None:
    """By factors, or in rings; a server on a worker's host shares its link with all of these."""
    equal = Machines(link=Link(bits_per_s=500 * BYTE_PER_S))
    unequal = replace(equal, slow_server=Link(bits_per_s=5 * BYTE_PER_S))
    wishes = {"*": "sfb" if summing is Summing.SERVERS else "ps"}
    apart, together = (two_layers(wishes, replace(TWO, co_located=each)) for each in (False, True))
    assert step_s(apart, unequal, summing) == step_s(apart, equal, summing)
    assert step_s(together, unequal, summing) > step_s(together, equal, summing)


def test_a_hosts_processor_may_be_what_is_waited_for() -> None:
    """2 cores: 10 messages of 0.1 s, 2000 bytes in and out of 1 ms, 1000 of 2 ms to add.

    That is 1 + 2 + 2 s of work per layer, 2.5 s on two cores: from 2 to 4.5 s, and to 7 s. A
    second device's 500 bytes make it 1 s of work more for each: 2 + 3 + 3 s.
    """
    found = [
        exchange._replace(messages=10, summed_bytes=1000.0, device_bytes=500.0)
        for exchange in exchanges()
    ]
    host = Host(cores=2, message_s=0.1, byte_s=1e-3, sum_byte_s=2e-3)
    machines = Machines(link=Link(bits_per_s=1e9), host=host)
    assert predicted(found, machines).step_s == pytest.approx(7.0, abs=1e-3)
    assert predicted(found, replace(machines, devices=2)).step_s == pytest.approx(8.0, abs=1e-3)


def test_a_dedicated_servers_processor_may_be_what_is_waited_for() -> None:
    """30 messages of 0.1 s for each layer: from 2 to 5 s, and to 8 s."""
    found = [exchange._replace(server_messages=30) for exchange in exchanges()]
    host = Host(cores=1, message_s=0.1, byte_s=0.0, sum_byte_s=0.0)
    machines = Machines(link=Link(bits_per_s=1e9), host=host)
    assert predicted(found, machines).step_s == pytest.approx(8.0, abs=1e-3)


def test_cores_that_compute_are_not_free_for_communication() -> None:
    """5 s of work per layer as above, on 2 cores, of which computation takes 1.5 until 3 s.

    The top's begins at 2 s with half a core, has 4.5 s left at 3 s, and ends at 5.25 s; the
    bottom's ends at 7.75 s. If all cores compute, both begin at 3 s: until 5.5 and 8 s.
    """
    found = [exchange._replace(messages=30, summed_bytes=0.0) for exchange in exchanges()]
    host = Host(cores=2, computing=1.5, message_s=0.1, byte_s=1e-3, sum_byte_s=0.0)
    machines = Machines(link=Link(bits_per_s=1e9), host=host)
    assert predicted(found, machines).step_s == pytest.approx(7.75, abs=1e-3)
    for computing in (2.0, 3.0):
        busy = replace(machines, host=replace(host, computing=computing))
        assert predicted(found, busy).step_s == pytest.approx(8.0, abs=1e-3)


def test_hosts_that_share_cores_have_their_part_of_them() -> None:
    """4 hosts on 2 cores have half a core each: 5 s of work take 10 s, from 2 to 12, and to 22 s.

    Messages of both layers cost more than any link does, though each host's would not.
    """
    found = [exchange._replace(messages=30) for exchange in exchanges()]
    host = Host(cores=2 / 4, message_s=0.1, byte_s=1e-3)
    machines = Machines(link=Link(bits_per_s=1e9), host=host)
    assert predicted(found, machines).step_s == pytest.approx(22.0, abs=1e-3)


def test_credit_limits_what_a_stream_carries_in_a_round_trip() -> None:
    """500 bytes may be at a server at a time, and 0.5 s pass until they are credited again.

    So 1000 bytes to it take 1 s: from 2 to 3 s, and to 4 s.
    """
    found = [exchange._replace(stream_bytes=1000.0) for exchange in exchanges()]
    link = Link(bits_per_s=1e9, latency_s=0.25)
    machines = Machines(link=link, credit_bytes=500.0)
    assert predicted(found, machines).step_s == pytest.approx(4.0, abs=1e-3)


def test_the_window_of_a_stream_is_the_models_credit() -> None:
    assert CREDIT_BYTES == WINDOW_BYTES


def test_variables_are_updated_when_their_results_are_there() -> None:
    """A step alone takes 4 s: 3 of computation, and 0.5 s for the update of each layer.

    The top's result is there at 4 s and applied at 4.5 s, the bottom's at 6 and 6.5 s. Across the
    step the bottom's is there at 5 s: it is applied at 5.5 s, its layer has been passed at 6 s,
    when the top's is there, which is applied at 6.5 s. Half a second of that is the next step's.
    """
    found = [exchange._replace(updated_bytes=1000.0) for exchange in exchanges()]
    machines = Machines(link=Link(bits_per_s=500 * BYTE_PER_S), update_byte_s=0.5e-3)
    times = [
        predict_exchanges(found, machines, num_workers=2, compute_s=4.0, across_step=across).step_s
        for across in (False, True)
    ]
    assert times == pytest.approx([6.5, 6.0])
    alone = predict_exchanges([], machines, num_workers=1, compute_s=4.0)
    assert alone.step_s == 4.0


def test_what_an_exchange_by_servers_asks_of_every_machine() -> None:
    """4 workers, 2 servers, 1000 bytes in one KV pair.

    Co-located, a host sends on average b (P1 + P2 - 2) / P2 = 2000 bytes: as worker half of its
    gradient to the other server, as server half of a sum to 3 workers. That is 2 messages out and
    2 in. Its server adds 4 contributions of half a gradient. Dedicated, a worker sends all of its
    gradient in 1 message and gets 1; a server sends and gets half of it from each of 4.
    """
    together, apart = (
        exchanges_of(
            two_layers({"*": "ps"}, ClusterSpec(num_workers=4, num_servers=2, co_located=where)),
            TIMES,
        )[0]
        for where in (True, False)
    )
    assert (together.node_bytes, together.server_bytes, apart.node_bytes) == (2000, 0, 1000)
    assert (together.messages, together.summed_bytes) == (4, 2000)
    assert (apart.server_bytes, apart.messages, apart.server_messages) == (2000, 2, 4)
    assert (apart.summed_bytes, apart.server_summed_bytes) == (0, 2000)
    assert {together.stream_bytes, apart.stream_bytes} == {500}
    assert {together.updated_bytes, together.device_bytes} == {1000}


def test_what_an_exchange_by_factors_asks_of_every_machine() -> None:
    """4 workers with K = 1 row of 25 + 10 floats: 140 bytes to each of 3 others, and from them.

    3 products of 2 x 1 x 25 x 10 operations are made of theirs.
    """
    cluster = ClusterSpec(num_workers=4, num_servers=4, co_located=True)
    found = exchanges_of(two_layers({"*": "sfb"}, cluster), TIMES)[0]
    assert (found.node_bytes, found.device_bytes, found.messages) == (420, 140, 6)
    assert (found.hops, found.rebuild_flops) == (1, 1500)
    assert (found.updated_bytes, found.stream_bytes) == (1000, 0)


def test_factors_are_multiplied_when_the_device_has_computed() -> None:
    """They are there at 4 and 6 s; each product takes 1.5 s: from 4 to 5.5 s, and from 6 s on.

    Across the step they are there at 5 (bottom) and 6 s (top). The bottom's product ends at 6.5 s,
    the pass over the bottom layer at 7 s, and the top's product at 8.5 s: 0.5 s of it is what the
    next step would have taken to come here, so a step takes 8 s.
    """
    found = [exchange._replace(rebuild_flops=3.0) for exchange in exchanges()]
    machines = Machines(link=Link(bits_per_s=500 * BYTE_PER_S), flops_per_s=2.0)
    assert predicted(found, machines).step_s == pytest.approx(7.5)
    assert predicted(found, machines, across_step=True).step_s == pytest.approx(8.0)


def test_while_it_waits_the_device_multiplies_what_is_there() -> None:
    """The top's factors are there at 3 s; the bottom's result at 7 s, for which the device waits.

    The top's product takes from 3 to 4.5 s, so the next step waits for nothing more.
    """
    found = [
        Exchange("bottom", exists_s=3.0, needed_s=0.0, node_bytes=2000.0),
        Exchange("top", exists_s=2.0, needed_s=0.5, node_bytes=500.0, rebuild_flops=3.0),
    ]
    machines = Machines(link=Link(bits_per_s=500 * BYTE_PER_S), flops_per_s=2.0)
    assert predicted(found, machines, across_step=True).step_s == pytest.approx(7.0)


def test_sixteen_bits_are_half_the_bytes() -> None:
    """In 16 bits over a link it takes as long as in 32 over one twice as fast."""
    wide, narrow = (two_layers({"*": "ps"}, TWO, dtype) for dtype in (None, "bfloat16"))
    slow, fast = Machines(link=Link(bits_per_s=4000)), Machines(link=Link(bits_per_s=8000))
    assert step_s(narrow, slow) == pytest.approx(step_s(wide, fast))


def test_sixteen_bits_are_summed_as_thirty_two() -> None:
    """A processor adds up as much as ever, and moves half the bytes."""
    wide, narrow = (
        exchanges_of(two_layers({"*": "ps"}, TWO, dtype), TIMES) for dtype in (None, "float16")
    )
    assert [each.summed_bytes for each in narrow] == [each.summed_bytes for each in wide]
    assert [2 * each.node_bytes for each in narrow] == [each.node_bytes for each in wide]
    assert [2 * each.last_bytes for each in narrow] == [each.last_bytes for each in wide]


def test_a_ring_carries_what_co_located_servers_do_but_for_its_latency() -> None:
    """2 (P1 - 1) / P1 of the bytes one way; 2 (P1 - 1) latencies instead of 2."""
    cluster = ClusterSpec(num_workers=5, num_servers=5, co_located=True)
    plan = two_layers({"*": "ps"}, cluster)
    link = Link(bits_per_s=500 * BYTE_PER_S)
    at_once = step_s(plan, Machines(link=link), summing=Summing.RING)
    assert at_once == pytest.approx(2.0 + 2 * 1000 * 8 / 5 / 500)
    late = step_s(plan, Machines(link=replace(link, latency_s=0.01)), summing=Summing.RING)
    assert late - at_once == pytest.approx(0.08)


def test_rings_across_rings_carry_the_same_bytes_with_fewer_latencies() -> None:
    """12 workers in groups of 3: 2 latencies there and back, and 3 across the 4 groups.

    One way a worker sends 2 x 1000 x 2/3 bytes of each layer within its group, and of its third
    2 x 1000 / 3 x 3/4 across them: 1833 bytes, as in one ring of 12, whose latencies are 22.
    """
    plan = two_layers({"*": "ps"}, ClusterSpec(num_workers=12, num_servers=12, co_located=True))
    found = {how: exchanges_of(plan, TIMES, summing=how)[0] for how in Summing}
    one, several = found[Summing.RING], found[Summing.HIERARCHICAL]
    assert several.node_bytes == one.node_bytes == pytest.approx(2 * 1000 * (2 / 3 + 1 / 4))
    assert (one.hops, several.hops) == (2 * 11, 2 * 2 + 2 * 3)
    assert (one.messages, several.messages) == (44, 20)
    assert [group_size(count) for count in (2, 7, 16, 24, 4096)] == [1, 1, 4, 4, 64]


def test_one_worker_exchanges_nothing() -> None:
    cluster = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
    found = predict(two_layers({}, cluster), TIMES, Machines(link=Link(bits_per_s=1)))
    assert (found.step_s, found.communication_s, found.speedup, found.hidden) == (3.0, 0.0, 1.0, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Link(bits_per_s=-1),
        lambda: Link(bits_per_s=float("nan")),
        lambda: Link(bits_per_s=1, latency_s=-1),
        lambda: Link(bits_per_s=1, payload_share=1.5),
        lambda: Host(cores=0),
        lambda: Host(cores=1, computing=-1),
        lambda: Machines(link=Link(bits_per_s=1), update_byte_s=-1),
        lambda: Machines(link=Link(bits_per_s=1), credit_bytes=0),
        lambda: Machines(link=Link(bits_per_s=1), devices=0),
        lambda: Machines(link=Link(bits_per_s=1), flops_per_s=0),
    ],
)
def test_machines_that_cannot_be_are_refused(wrong: type) -> None:
    with pytest.raises(PlanError, match="must be|cannot be"):
        wrong()


LAYERS = ("conv1", "conv2", "fc1", "fc2")
SHARES = (0.4, 0.4, 0.15, 0.05)


def small_net() -> list[VariableSpec]:
    """3.1 M parameters: half in convolutions, which take most of the time."""
    return [
        *conv("conv1", 3, 64, 256),
        *conv("conv2", 3, 256, 256),
        *dense("fc1", 4096, 512),
        *dense("fc2", 512, 512),
    ]


def timeline() -> Timeline:
    """Of the small net; a step of one worker alone takes a second."""
    exist = dict(zip(LAYERS, gradient_times(SHARES, compute_s=1.0), strict=True))
    read = dict(zip(LAYERS, read_times(SHARES, compute_s=1.0), strict=True))
    names = [spec.name for spec in small_net()]
    return Timeline(
        1.0,
        {name: exist[name.partition("/")[0]] for name in names},
        {name: read[name.partition("/")[0]] for name in names},
    )


@pytest.mark.parametrize("across_step", [False, True], ids=["in the step", "across"])
@pytest.mark.parametrize("mbit", [100, 300])
@pytest.mark.parametrize(
    "workers, servers, schemes, slow, within",
    [
        (4, None, {"*": "ps"}, False, 0.01),
        (4, None, None, False, 0.015),
        (4, None, {"*": "ps"}, True, 0.01),
        (4, None, None, True, 0.01),
        (4, 2, {"*": "ps"}, False, 0.06),
        (4, 4, None, False, 0.05),
    ],
    ids=["PS", "hybrid", "PS, one slow", "hybrid, one slow", "2 servers", "4 servers, hybrid"],
)
def test_the_model_agrees_with_a_cluster_in_which_every_message_is_followed(
    workers: int,
    servers: int | None,
    schemes: dict[str, str] | None,
    slow: bool,
    within: float,
    mbit: int,
    across_step: bool,
) -> None:
    """Over several steps, on links where a step takes up to 3.4 times what it computes."""
    cluster = ClusterSpec(
        num_workers=workers, num_servers=servers or workers, co_located=servers is None
    )
    plan = make_plan(small_net(), cluster, schemes=schemes)
    link = Link(bits_per_s=mbit * 1e6, latency_s=0.001)
    half = Link(bits_per_s=mbit * 0.5e6, latency_s=0.001)
    followed = followed_step_s(
        plan, timeline(), link, across_step=across_step, other_links={1: half} if slow else None
    )
    machines = Machines(link=link, slow_worker=half if slow else None)
    found = predict(plan, timeline(), machines, across_step=across_step).step_s
    assert found == pytest.approx(followed, rel=within)


SECONDS = st.floats(0.0, 10.0)


@st.composite
def any_exchanges(draw: st.DrawFn) -> list[Exchange]:
    """Read within the first 3 s of a step of 10 s; gradients exist from then on."""
    return [
        Exchange(
            str(at),
            exists_s=draw(st.floats(3.0, 10.0)),
            needed_s=draw(st.floats(0.0, 3.0)),
            node_bytes=draw(st.floats(0.0, 50.0)),
            server_bytes=draw(st.floats(0.0, 50.0)),
            hops=draw(st.integers(0, 2)),
            messages=draw(st.floats(0.0, 50.0)),
            rebuild_flops=draw(st.sampled_from([0.0, 1.0, 4.0])),
        )
        for at in range(draw(st.integers(1, 6)))
    ]


def any_step_s(
    found: list[Exchange], *, byte_per_s: float, flops_per_s: float = 4.0, across_step: bool
) -> float:
    machines = Machines(
        link=Link(bits_per_s=byte_per_s * BYTE_PER_S, latency_s=0.1),
        host=Host(cores=1, message_s=0.01, byte_s=0.001, sum_byte_s=0.0),
        flops_per_s=flops_per_s,
    )
    return predict_exchanges(
        found, machines, num_workers=2, compute_s=10.0, across_step=across_step
    ).step_s


@settings(deadline=None, derandomize=True)
@given(any_exchanges(), st.floats(1.0, 100.0), st.floats(1.0, 10.0), st.booleans())
def test_a_faster_link_is_never_slower(
    found: list[Exchange], byte_per_s: float, faster: float, across_step: bool
) -> None:
    slow_s = any_step_s(found, byte_per_s=byte_per_s, across_step=across_step)
    fast_s = any_step_s(found, byte_per_s=byte_per_s * faster, across_step=across_step)
    assert fast_s <= slow_s + 1e-9


@settings(deadline=None, derandomize=True)
@given(any_exchanges(), st.floats(1.0, 100.0), st.floats(0.0, 50.0), st.data(), st.booleans())
def test_more_bytes_are_never_faster(
    found: list[Exchange], byte_per_s: float, more: float, data: st.DataObject, across_step: bool
) -> None:
    at = data.draw(st.integers(0, len(found) - 1))
    grown = list(found)
    grown[at] = found[at]._replace(node_bytes=found[at].node_bytes + more)
    before_s = any_step_s(found, byte_per_s=byte_per_s, across_step=across_step)
    assert any_step_s(grown, byte_per_s=byte_per_s, across_step=across_step) >= before_s - 1e-9


def bytes_alone_s(found: list[Exchange], *, byte_per_s: float, across_step: bool) -> float:
    """Without latency and products: with them it matters whose result comes last."""
    simple = [exchange._replace(hops=0, rebuild_flops=0.0) for exchange in found]
    return any_step_s(simple, byte_per_s=byte_per_s, across_step=across_step)


@settings(deadline=None, derandomize=True)
@given(any_exchanges(), st.floats(1.0, 100.0), st.booleans())
def test_a_step_is_between_its_computation_and_one_without_overlap(
    found: list[Exchange], byte_per_s: float, across_step: bool
) -> None:
    took_s = bytes_alone_s(found, byte_per_s=byte_per_s, across_step=across_step)
    at_the_end = [exchange._replace(exists_s=10.0) for exchange in found]
    longest_s = bytes_alone_s(at_the_end, byte_per_s=byte_per_s, across_step=False)
    assert 10.0 - 1e-9 <= took_s <= longest_s + 1e-9


@settings(deadline=None, derandomize=True)
@given(any_exchanges(), st.floats(1.0, 100.0))
def test_across_the_step_is_never_slower_than_in_it(
    found: list[Exchange], byte_per_s: float
) -> None:
    in_step_s, across_s = (
        bytes_alone_s(found, byte_per_s=byte_per_s, across_step=across_step)
        for across_step in (False, True)
    )
    assert across_s <= in_step_s + 1e-9
