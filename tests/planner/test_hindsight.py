"""What the model of a step says of one whose gradients were seen."""

import pytest

from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    Plan,
    Timeline,
    VariableSpec,
    make_plan,
    predict,
    predicted_step,
)

SPECS = [
    VariableSpec(name=f"{name}/kernel", shape=(1024, 1024), dtype="float32")
    for name in ("low", "middle", "top")
]
MIB = 8 * 2**20  # Bits.
MACHINES = Machines(link=Link(bits_per_s=100 * MIB))  # A kernel's 4 MiB take 40 ms.
SEEN_S = {0: 0.06, 1: 0.03, 2: 0.0}


def plan_of(specs: list[VariableSpec], num_workers: int = 2) -> Plan:
    return make_plan(specs, ClusterSpec(num_workers=num_workers, num_servers=1, co_located=False))


def test_in_the_step_what_does_not_fit_behind_the_computation_is_waited_for() -> None:
    """By hand: of 100 ms of computation the first gradient exists after 40; two workers make the
    server's link carry 80 ms each way for each of three, one after the other."""
    found = predicted_step(plan_of(SPECS), SEEN_S, computation_s=0.1, machines=MACHINES)
    assert found.step_s == pytest.approx(0.04 + 3 * 0.08, rel=0.05)
    assert found.compute_s == 0.1
    quick = Machines(link=Link(bits_per_s=1e15))
    found = predicted_step(plan_of(SPECS), SEEN_S, computation_s=0.1, machines=quick)
    assert found.step_s == pytest.approx(0.1)


@pytest.mark.parametrize("across_step", [False, True])
def test_it_is_the_model_with_the_times_that_were_measured(across_step: bool) -> None:
    names = [spec.name for spec in SPECS]
    exists_s = dict(zip(names, [0.1, 0.07, 0.04], strict=True))
    needed_s = dict(zip(names, [0.0, 0.04 / 3, 0.08 / 3], strict=True))
    timeline = Timeline(0.1, exists_s, needed_s)
    wanted = predict(plan_of(SPECS), timeline, MACHINES, across_step=across_step)
    found = predicted_step(
        plan_of(SPECS), SEEN_S, computation_s=0.1, machines=MACHINES, across_step=across_step
    )
    assert found.step_s == pytest.approx(wanted.step_s)
    assert found.communication_s == pytest.approx(wanted.communication_s)


def test_another_models_units_take_no_part() -> None:
    """Also where its variables have the same names, as those of the folds of a cross-validation."""
    both = Plan.joined([plan_of(SPECS), plan_of(SPECS)])
    second_s = {3 + unit: after_s for unit, after_s in SEEN_S.items()}
    found = predicted_step(both, second_s, computation_s=0.1, machines=MACHINES)
    wanted = predicted_step(plan_of(SPECS), SEEN_S, computation_s=0.1, machines=MACHINES)
    assert found == wanted


def test_the_products_of_factors_are_not_counted_twice() -> None:
    """They are part of the computation that was measured."""
    kernel = VariableSpec(
        name="fc/kernel", shape=(1024, 1024), dtype="float32", rows=8, factors=(1024, 1024)
    )
    plan = plan_of([kernel])
    slow = Machines(link=Link(bits_per_s=1e15), flops_per_s=1e6)
    found = predicted_step(plan, {0: 0.0}, computation_s=0.1, machines=slow)
    assert plan.variables[0].rebuild_flops > 0 and found.step_s == pytest.approx(0.1)


def test_where_nothing_is_exchanged_a_step_is_its_computation() -> None:
    found = predicted_step(plan_of(SPECS), {}, computation_s=0.1, machines=MACHINES)
    assert (found.step_s, found.hidden) == (0.1, 1.0)
