"""How long steps take, by the times at which gradients leave and sums come."""

import pytest

from poseidon_tf.session.statistics import Statistics, hidden_part
from poseidon_tf.session.step_times import Medians, StepTimes, medians


def take_step(times: StepTimes, at_s: float, model: str = "model") -> None:
    """Gradients at 0 and 3 s, whose sums come at 1 and 5 s."""
    times.begin(f"{model}/top", at_s)
    times.end(at_s + 1.0)
    times.begin(f"{model}/bottom", at_s + 3.0)
    times.end(at_s + 5.0)


def test_a_step_lasts_from_its_first_gradient_to_that_of_the_next() -> None:
    """A sum that comes while other gradients are still computed is waited for by nobody."""
    times = StepTimes()
    for step in range(3):
        take_step(times, 10.0 * step)
    assert times.steps == 3
    assert medians(times.recent) == Medians(
        steps=2, step_s=10.0, own_s=8.0, waiting_s=2.0, communicating_s=3.0
    )
    assert (times.waiting_s, times.communicating_s) == (6.0, 9.0)


def test_before_the_second_step_no_step_has_a_time() -> None:
    times = StepTimes()
    assert medians(times.recent) == Medians()
    take_step(times, 5.0)
    assert medians(times.recent) == Medians()
    assert (times.waiting_s, times.communicating_s) == (2.0, 3.0)


def test_steps_may_overlap() -> None:
    """Where sums come during the next step, each second of communication counts once."""
    times = StepTimes()
    times.begin("fc", 0.0)
    times.begin("fc", 4.0)
    times.end(5.0)
    times.end(6.0)
    times.begin("fc", 10.0)
    assert times.communicating_s == 6.0
    assert [step.communicating_s for step in times.recent] == [4.0, 2.0]
    assert [step.lasted_s for step in times.recent] == [4.0, 6.0]


def test_another_models_steps_are_counted_and_timed_as_the_first_ones() -> None:
    """Also where it takes fewer steps than the first; the time between the two is no step's."""
    times = StepTimes()
    for step in range(5):
        take_step(times, 10.0 * step)
    times.interrupt()
    for step in range(3):
        take_step(times, 1000.0 + 20.0 * step, "another")
    assert times.steps == 8
    assert [step.lasted_s for step in times.recent] == [10.0] * 4 + [20.0] * 2
    assert (times.waiting_s, times.communicating_s) == (16.0, 24.0)


def test_two_models_that_take_turns_are_trained_in_one_step() -> None:
    """One after the other, or the first twice as often: a step has one gradient of each route."""
    times = StepTimes()
    for step in range(4):
        take_step(times, 20.0 * step, "critic")
        take_step(times, 20.0 * step + 10.0, "generator")
    assert (times.steps, medians(times.recent).step_s) == (4, 20.0)
    for step in range(4):
        take_step(times, 100.0 + 10.0 * step, "critic")
    take_step(times, 140.0, "generator")
    assert times.steps == 8


def test_it_is_known_when_in_a_step_each_route_contributes() -> None:
    """Medians of the last 20 steps, of what has trained since the last interruption."""
    times = StepTimes()
    take_step(times, 0.0, "before")
    take_step(times, 10.0, "before")
    times.interrupt()
    for step in range(31):
        times.begin("top", 100.0 + 10.0 * step)
        times.begin("bottom", 103.0 + 10.0 * step + (step < 18))
    assert times.contributed_s() == {"top": 0.0, "bottom": 3.0}


def test_the_last_thousand_steps_are_remembered() -> None:
    times = StepTimes()
    for step in range(2000):
        times.begin("fc", float(step))
        times.end(step + 0.5)
    assert len(times.recent) == 1000


@pytest.mark.parametrize(
    "communicating_s, waiting_s, part", [(0.0, 0.0, 0.0), (4.0, 1.0, 0.75), (1.0, 2.0, 0.0)]
)
def test_what_nobody_waited_for_is_hidden(
    communicating_s: float, waiting_s: float, part: float
) -> None:
    assert hidden_part(communicating_s, waiting_s) == part
    assert Statistics(communicating_s=communicating_s, waiting_s=waiting_s).hidden == part
