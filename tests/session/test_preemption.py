"""A wish to end, and the loop that asks for it: who hears of it, and at which step all stop."""

import pytest

from poseidon_tf.coordinator.messages import StopOffer
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.session.preemption import EXIT_CODE, Preempted, Preemption


def test_the_first_reason_counts() -> None:
    """Several processes may be asked to end at once."""
    preemption = Preemption()
    assert preemption.reason == ""
    preemption.ask("worker rank 1")
    preemption.ask("server 0")
    assert preemption.reason == "worker rank 1" and not preemption.is_heeded
    preemption.heed("worker rank 2")
    assert preemption.reason == "worker rank 1" and preemption.is_heeded


def test_a_worker_notices_only_where_it_watches() -> None:
    """`fit` in a `fit` is one; a loop watches for good."""
    preemption = Preemption()
    with preemption.watching():
        with preemption.watching():
            assert preemption.is_watched
        assert preemption.is_watched
    assert not preemption.is_watched
    preemption.watch()
    assert preemption.is_watched


def test_it_ends_the_process_with_its_code() -> None:
    """As SystemExit, which runs every `finally` and which `except Exception` lets pass."""
    assert issubclass(Preempted, SystemExit)
    with pytest.raises(Preempted) as raised:
        raise Preempted("worker rank 1")
    assert raised.value.code == EXIT_CODE == 143
    assert raised.value.reason == "worker rank 1"


class Loop:
    """One worker's calls of `stop_requested`, without the coordinator between them."""

    def __init__(self) -> None:
        self.stopping = Stopping(timeout_s=1.0)
        self.begun = 0

    def step(self) -> StopOffer | None:
        self.stopping.end()
        self.begun += 1
        return self.stopping.begin()


def test_a_worker_at_the_same_step_stops_there_with_the_asking_one() -> None:
    """It has heard before its next step, and need not run one more."""
    one, two = Loop(), Loop()
    for loop in (one, two):
        assert loop.step() is None
    one.stopping.end()
    offer = one.stopping.want()
    assert offer == StopOffer(number=1, after=1, timeout_s=1.0)
    assert not two.stopping.is_asked
    assert two.stopping.asked(offer.number, offer.after) is None  # It is still in step 1.
    assert not two.stopping.is_asked
    two.stopping.end()
    assert two.stopping.is_asked
    assert two.stopping.want() == StopOffer(number=1, after=1, timeout_s=1.0)
    for loop in (one, two):
        loop.stopping.agree(1)
        assert loop.stopping.is_due


def test_a_worker_that_has_begun_one_step_more_takes_the_asking_one_with_it() -> None:
    """It cannot end that step alone: both stop after it."""
    one, two = Loop(), Loop()
    one.step()
    two.step()
    two.step()
    one.stopping.end()
    offer = one.stopping.want()
    assert offer is not None
    answer = two.stopping.asked(offer.number, offer.after)
    assert answer is not None
    assert (offer.after, answer.after) == (1, 2)
    for loop in (one, two):
        loop.stopping.agree(2)
    assert not one.stopping.is_due
    one.step()
    for loop in (one, two):
        loop.stopping.end()
        assert loop.stopping.is_due
