"""How many workers the next try of a job has, and what is said of it."""

import signal
from typing import Any

import pytest

from poseidon_tf.launcher.blame import Blame
from poseidon_tf.launcher.sizes import Sizes
from poseidon_tf.launcher.supervisor import Ending

KILL = int(signal.SIGKILL)


def ended(*killed: tuple[str, int], code: int = 1, **how: Any) -> Ending:
    return Ending(code, how.pop("is_stopped", False), Blame([], {}), killed=killed, **how)


def test_each_worker_that_was_killed_is_one_fewer_but_never_under_the_least() -> None:
    """As many as there are then are what the next loss counts from."""
    sizes = Sizes(2, 5, max_restarts=3)
    assert sizes.workers == 5 and not sizes.may_grow
    ends = [
        ended(("worker 4", KILL)),
        ended(("worker 1", KILL), ("worker 3", int(signal.SIGTERM))),
        ended(("worker 0", KILL)),
    ]
    said: list[str] = []
    for ending, left in zip(ends, [4, 2, 2], strict=True):
        assert sizes.goes_on(ending)
        assert sizes.workers == left and sizes.may_grow
        said.append(sizes.said(ending))
    assert said == [
        "worker 4 was killed by signal 9; starting again with 4 of 5 workers (try 2 of 4)",
        "worker 1 was killed by signal 9, worker 3 was killed by signal 15; "
        "starting again with 2 of 5 workers (try 3 of 4)",
        "worker 0 was killed by signal 9; starting again with 2 of 5 workers (try 4 of 4)",
    ]
    assert not sizes.goes_on(ended(("worker 1", KILL)))


@pytest.mark.parametrize(
    "ending", [ended(), ended(("worker 1", int(signal.SIGSEGV)), code=139)], ids=["code", "fault"]
)
def test_a_failure_of_the_script_costs_no_worker(ending: Ending) -> None:
    """Nor does a signal that a process gets for its own fault."""
    sizes = Sizes(1, 3, max_restarts=1)
    assert sizes.goes_on(ending)
    assert sizes.said(ending) == (
        "no worker was lost; starting again with 3 of 3 workers (try 2 of 2)"
    )


def test_when_it_is_asked_to_it_starts_with_all_and_counts_no_restart() -> None:
    """However often, and also when no restart is left."""
    sizes = Sizes(1, 3, max_restarts=1)
    assert sizes.goes_on(ended(("worker 2", KILL)))
    asked = ended(code=138, wants_more=True, is_resized=True)
    for _ in range(3):
        assert sizes.goes_on(asked)
        assert sizes.workers == 3 and not sizes.may_grow
        assert sizes.said(asked) == (
            "SIGUSR1 came; starting again with 3 of 3 workers (try 2 of 2)"
        )
    assert not sizes.goes_on(ended(("worker 2", KILL)))


def test_asked_while_a_failed_try_ends_it_starts_with_all_too() -> None:
    """That is a restart, since the try has failed."""
    sizes = Sizes(1, 3, max_restarts=2)
    assert sizes.goes_on(ended(("worker 2", KILL), ("worker 1", KILL)))
    assert sizes.workers == 1
    failed = ended(("worker 0", KILL), wants_more=True)
    assert sizes.goes_on(failed)
    assert sizes.said(failed) == (
        "worker 0 was killed by signal 9, SIGUSR1 came; "
        "starting again with 3 of 3 workers (try 3 of 3)"
    )


@pytest.mark.parametrize(
    "ending",
    [ended(code=0), ended(code=0, wants_more=True, is_resized=True), ended(is_stopped=True)],
    ids=["done", "done when asked", "stopped"],
)
def test_a_job_that_is_done_or_was_stopped_is_not_started_anew(ending: Ending) -> None:
    assert not Sizes(1, 3, max_restarts=5).goes_on(ending)


def test_a_job_of_one_size_keeps_it() -> None:
    """And says as before how many restarts there are."""
    sizes = Sizes(3, 3, max_restarts=2)
    assert not sizes.is_elastic and sizes.then == "; restart 1 of 2"
    assert sizes.goes_on(ended(("worker 2", KILL)))
    assert sizes.workers == 3 and not sizes.may_grow and sizes.then == "; restart 2 of 2"
    assert sizes.goes_on(ended(("worker 2", KILL)))
    assert sizes.then == ""
