"""The bound on speedup, against VGG19-22K's numbers."""

import pytest

from poseidon_tf.errors import PlanError
from poseidon_tf.planner import ClusterSpec, make_plan
from poseidon_tf.planner.plan import Plan
from poseidon_tf.planner.simulate import (
    Transfer,
    communication_end,
    gradient_times,
    speedup_bound,
    transfers_of,
)
from tests.planner.planner_models import vgg19_22k

STEP_S = 0.925
CONV_SIZES = [224] * 2 + [112] * 2 + [56] * 4 + [28] * 4 + [14] * 4


def vgg_plan(workers: int, schemes: dict[str, str] | None = None) -> Plan:
    cluster = ClusterSpec(num_workers=workers, num_servers=workers, co_located=True)
    return make_plan(vgg19_22k(), cluster, schemes=schemes)


def vgg_times() -> dict[str, float]:
    """When each gradient of VGG19-22K exists: layers take as much time as they have work."""
    kernels = [spec for spec in vgg19_22k() if spec.name.endswith("kernel")]
    sizes = CONV_SIZES + [1] * 3
    work = [spec.num_elements * size**2 for spec, size in zip(kernels, sizes, strict=True)]
    times = gradient_times([part / sum(work) for part in work], compute_s=STEP_S)
    names = [spec.name.rpartition("/")[0] for spec in kernels]
    by_layer = dict(zip(names, times, strict=True))
    return {spec.name: by_layer[spec.name.rpartition("/")[0]] for spec in vgg19_22k()}


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


def test_without_overlap_everything_leaves_at_the_end_of_the_computation() -> None:
    plan = vgg_plan(4, {"*": "ps"})
    at_the_end = {variable.name: STEP_S for variable in plan.variables}
    end_s = communication_end(transfers_of(plan, at_the_end), bits_per_s=10e9)
    # 229.05 M parameters, 6 / 4 of them each way.
    assert end_s - STEP_S == pytest.approx(229_052_817 * 4 * 1.5 * 8 / 10e9, rel=1e-6)


def test_gradients_exist_from_the_top_down_after_the_forward_pass() -> None:
    assert gradient_times([0.75, 0.25], compute_s=3.0) == pytest.approx([3.0, 1.5])


def test_a_link_serves_first_come_first_and_idles_until_something_exists() -> None:
    transfers = [Transfer(5.0, 1), Transfer(1.0, 2), Transfer(2.0, 1)]
    assert communication_end(transfers, bits_per_s=8) == 6.0
    assert communication_end(transfers[1:], bits_per_s=8) == 4.0
    assert communication_end([], bits_per_s=8) == 0.0


def test_one_worker_has_nothing_to_send() -> None:
    cluster = ClusterSpec(num_workers=1, num_servers=0, co_located=True)
    plan = make_plan(vgg19_22k(), cluster)
    bound = speedup_bound(plan, vgg_times(), compute_s=STEP_S, bits_per_s=1)
    assert bound == pytest.approx(1)


def test_wrong_arguments_are_named() -> None:
    plan = vgg_plan(2)
    with pytest.raises(PlanError, match="bits_per_s must be more than 0, got 0"):
        communication_end([], bits_per_s=0)
    with pytest.raises(PlanError, match="it lacks 'conv0/kernel'"):
        transfers_of(plan, {})
