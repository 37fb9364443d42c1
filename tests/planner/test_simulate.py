"""The bound on speedup, against VGG19-22K's numbers."""

import pytest

from poseidon_tf.errors import PlanError
from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    Plan,
    Timeline,
    gradient_times,
    make_plan,
    read_times,
    speedup_bound,
)
from poseidon_tf.planner.exchanges import exchanges_of
from poseidon_tf.planner.queueing import finish_times
from poseidon_tf.planner.simulate import arrivals
from tests.planner.planner_models import dense, vgg19_22k

STEP_S = 0.925
CONV_SIZES = [224] * 2 + [112] * 2 + [56] * 4 + [28] * 4 + [14] * 4


def vgg_plan(workers: int, schemes: dict[str, str] | None = None) -> Plan:
    cluster = ClusterSpec(num_workers=workers, num_servers=workers, co_located=True)
    return make_plan(vgg19_22k(), cluster, schemes=schemes)


def by_variable(times: list[float]) -> dict[str, float]:
    """Those of VGG19-22K's layers, for their variables."""
    names = [spec.name.rpartition("/")[0] for spec in vgg19_22k() if spec.name.endswith("kernel")]
    by_layer = dict(zip(names, times, strict=True))
    return {spec.name: by_layer[spec.name.rpartition("/")[0]] for spec in vgg19_22k()}


def vgg_shares() -> list[float]:
    """What part of VGG19-22K's step each layer takes: as much as it has of the work."""
    kernels = [spec for spec in vgg19_22k() if spec.name.endswith("kernel")]
    sizes = CONV_SIZES + [1] * 3
    work = [spec.num_elements * size**2 for spec, size in zip(kernels, sizes, strict=True)]
    return [part / sum(work) for part in work]


def vgg_times() -> dict[str, float]:
    """When each gradient of VGG19-22K exists."""
    return by_variable(gradient_times(vgg_shares(), compute_s=STEP_S))


def vgg_reads() -> dict[str, float]:
    """When a step of VGG19-22K first reads each variable."""
    return by_variable(read_times(vgg_shares(), compute_s=STEP_S))


@pytest.mark.parametrize(
    "workers, gbe, schemes, expected",
    [
        (4, 10, {"*": "ps"}, 2.62),
        (8, 10, {"*": "ps"}, 4.64),
        (8, 2, None, 6.74),
        (8, 10, None, 8.0),
    ],
    ids=["PS, 4 workers", "PS, 8 workers", "hybrid, 2 GbE", "hybrid, 10 GbE"],
)
def test_the_bound_of_vgg19_22k(
    workers: int, gbe: int, schemes: dict[str, str] | None, expected: float
) -> None:
    bound = speedup_bound(
        vgg_plan(workers, schemes), vgg_times(), compute_s=STEP_S, bits_per_s=gbe * 1e9
    )
    assert bound == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    "workers, gbe, schemes, expected",
    [
        (4, 10, {"*": "ps"}, 3.35),
        (8, 10, {"*": "ps"}, 5.75),
        (16, 10, {"*": "ps"}, 10.74),
        (8, 2, None, 8.0),
        (8, 1, None, 4.69),
    ],
    ids=["PS, 4 workers", "PS, 8", "PS, 16", "hybrid, 2 GbE", "hybrid, 1 GbE"],
)
def test_the_bound_of_vgg19_22k_across_the_step(
    workers: int, gbe: int, schemes: dict[str, str] | None, expected: float
) -> None:
    bound = speedup_bound(
        vgg_plan(workers, schemes),
        vgg_times(),
        needed_s=vgg_reads(),
        compute_s=STEP_S,
        bits_per_s=gbe * 1e9,
    )
    assert bound == pytest.approx(expected, abs=0.006)


def test_without_overlap_everything_leaves_at_the_end_of_the_computation() -> None:
    plan = vgg_plan(4, {"*": "ps"})
    at_the_end = {variable.name: STEP_S for variable in plan.variables}
    bound = speedup_bound(plan, at_the_end, compute_s=STEP_S, bits_per_s=10e9)
    step_s = 4 * STEP_S / bound
    # 229.05 M parameters, 6 / 4 of them each way.
    assert step_s - STEP_S == pytest.approx(229_052_817 * 4 * 1.5 * 8 / 10e9, rel=1e-6)


def test_the_bound_counts_the_links_of_dedicated_servers() -> None:
    """A kernel of 100 x 100 floats that exists at 1 s: 40 kB to one server from each of 4 workers.

    160 kB at 80 kbit/s take 16 s, four times what they take on a worker's link.
    """
    specs = dense("fc", 100, 100)[:1]
    cluster = ClusterSpec(num_workers=4, num_servers=1, co_located=False)
    plan = make_plan(specs, cluster, schemes={"*": "ps"})
    bound = speedup_bound(plan, {"fc/kernel": 1.0}, compute_s=1.0, bits_per_s=80e3)
    assert bound == pytest.approx(4 * 1.0 / 17.0)


def test_gradients_exist_from_the_top_down_after_the_forward_pass() -> None:
    assert gradient_times([0.75, 0.25], compute_s=3.0) == pytest.approx([3.0, 1.5])


def test_variables_are_read_from_the_bottom_up_before_any_gradient_exists() -> None:
    assert read_times([0.75, 0.25], compute_s=3.0) == pytest.approx([0.0, 0.75])


def test_a_queue_serves_first_come_and_idles_until_something_exists() -> None:
    ready_s, work_s = [5.0, 1.0, 2.0], [1.0, 2.0, 1.0]
    assert finish_times(ready_s, work_s, ready_s) == [6.0, 3.0, 4.0]
    assert finish_times([1.0, 2.0], [2.0, 1.0], [1.0, 2.0]) == [3.0, 4.0]
    assert finish_times([], [], []) == []


def test_a_queue_leaves_what_it_does_for_what_is_more_urgent() -> None:
    """From 0 to 1 it does the first, of 3 s; from 1 to 3 the second; then the rest of the first."""
    assert finish_times([0.0, 1.0], [3.0, 2.0], [9.0, 1.0]) == [5.0, 3.0]


def test_what_was_handed_over_cannot_be_overtaken() -> None:
    """Half a second of it: what comes at 1 s, and is more urgent, begins at 1.5 s.

    Where all is handed over at once, who comes first is done first; and nobody waits for a queue
    that has run dry.
    """
    ready_s, work_s, urgency = [0.0, 1.0], [3.0, 2.0], [9.0, 1.0]
    assert finish_times(ready_s, work_s, urgency, held_s=0.5) == [5.0, 3.5]
    assert finish_times(ready_s, work_s, urgency, held_s=9.0) == [3.0, 5.0]
    assert finish_times([0.0, 10.0], [1.0, 1.0], urgency, held_s=5.0) == [1.0, 11.0]


def test_where_links_hold_everything_priorities_are_worth_nothing() -> None:
    """Across the step results come as they exist, as if nobody had said what is urgent."""
    timeline = Timeline(STEP_S, vgg_times(), vgg_reads())
    exchanges = exchanges_of(vgg_plan(8, {"*": "ps"}), timeline)
    link = Link(bits_per_s=10e9)
    all_held = Machines(link=link, held_bytes=1e12)
    found = arrivals(exchanges, all_held, across_step=True)
    assert found == pytest.approx(arrivals(exchanges, Machines(link=link)))
    assert found != pytest.approx(arrivals(exchanges, Machines(link=link), across_step=True))


def test_one_worker_has_nothing_to_send() -> None:
    cluster = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
    plan = make_plan(vgg19_22k(), cluster)
    bound = speedup_bound(plan, vgg_times(), compute_s=STEP_S, bits_per_s=1)
    assert bound == pytest.approx(1)


def test_wrong_arguments_are_named() -> None:
    plan = vgg_plan(2)
    with pytest.raises(PlanError, match="bits_per_s must be more than 0, got 0"):
        speedup_bound(plan, vgg_times(), compute_s=STEP_S, bits_per_s=0)
    with pytest.raises(PlanError, match="exists_s must say .* it lacks 'conv0/kernel'"):
        speedup_bound(plan, {}, compute_s=STEP_S, bits_per_s=1)
    with pytest.raises(PlanError, match="needed_s must say .* it lacks 'conv0/kernel'"):
        speedup_bound(plan, vgg_times(), needed_s={}, compute_s=STEP_S, bits_per_s=1)
    with pytest.raises(PlanError, match="compute_s must be more than 0, got 0"):
        speedup_bound(plan, vgg_times(), compute_s=0, bits_per_s=1)
