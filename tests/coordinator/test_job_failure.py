"""What the job fails of, as one member knows it: set once, one way in and one way out."""

import logging
import threading
from typing import Any

import pytest

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import DriftError, MemberError, PeerLost, PoseidonError, StepTimeout

WAIT_S = 20.0  # Far more than anything here takes.
OWN, OTHERS = DriftError("'fc7' is not the same"), StepTimeout("worker rank 0 waited")


class Noted:
    """One member's, whose coordinator answers when a test says so.

    Attributes:
      asked: what the coordinator was told.
      heard: what there was when the job had failed, each time that was said.
    """

    def __init__(self, *, is_in: bool = True, **options: Any) -> None:
        self.asked: list[PoseidonError] = []
        self.heard: list[PoseidonError | None] = []
        defaults: dict[str, Any] = {"verdict_s": WAIT_S, "where": lambda: "rank 3 was here"}
        self.job = JobFailure(**defaults | options)
        self.job.ask = self._ask
        self._is_in = is_in
        self.job.on_set.append(lambda: self.heard.append(self.job.failure))

    def _ask(self, error: PoseidonError) -> bool:
        self.asked.append(error)
        return self._is_in

    def waiting(self, error: PoseidonError) -> tuple[threading.Thread, list[PoseidonError]]:
        """A thread that gives up because of `error`, and what it is to raise."""
        raised: list[PoseidonError] = []
        thread = threading.Thread(target=lambda: raised.append(self.job.fail_together(error)))
        thread.start()
        return thread, raised


def test_what_is_found_here_counts_when_the_coordinator_has_answered() -> None:
    """Until then nothing that waits hears of it, and this member says nothing more."""
    noted = Noted()
    noted.job.fail(OWN)
    assert noted.asked == [OWN] and noted.job.reported is OWN and not noted.job.is_open
    assert noted.job.failure is None and not noted.heard and not noted.job.over.is_set()
    answer = DriftError(str(OWN))
    noted.job.settle(answer)
    assert noted.job.cause is answer and noted.job.over.is_set()
    assert noted.heard == [noted.job.failure]
    noted.job.leave()


def test_of_two_at_once_the_coordinators_first_counts() -> None:
    """Whoever found the other raises that one too, with where this member was."""
    noted = Noted()
    noted.job.fail(OWN)
    noted.job.settle(OTHERS)
    raised = noted.job.fail_together(OWN)
    assert raised is noted.job.failure and type(raised) is StepTimeout
    assert str(raised) == f"{OTHERS}; rank 3 was here"
    assert raised.__cause__ is noted.job.cause is OTHERS
    noted.job.leave()


def test_many_at_once_are_one() -> None:
    """It is said once, and everything that waits gets the very same."""
    noted = Noted(is_in=False)
    threads = [noted.waiting(MemberError(f"error {number}")) for number in range(16)]
    for thread, _ in threads:
        thread.join(WAIT_S)
    failures = {id(raised) for _, (raised,) in threads}
    assert failures == {id(noted.job.failure)} and len(noted.heard) == len(noted.asked) == 1


def test_what_the_coordinator_does_not_answer_counts_in_time() -> None:
    """Of two the first is reported, and kept."""
    noted = Noted(verdict_s=0.05)
    noted.job.fail(OWN)
    raised = noted.job.fail_together(OTHERS)
    assert str(raised) == f"{OWN}; rank 3 was here"
    assert noted.asked == [OWN] and noted.job.cause is OWN


def test_where_nobody_can_answer_it_counts_at_once() -> None:
    noted = Noted(is_in=False)
    noted.job.fail(OWN)
    assert noted.job.cause is OWN and noted.heard == [noted.job.failure]


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    noted = Noted(is_in=False)
    noted.job.fail(OWN)
    kept = noted.job.failure
    noted.job.settle(OTHERS)
    assert noted.job.failure is kept and noted.job.cause is OWN and len(noted.heard) == 1


def test_a_wait_that_begins_after_the_failure_ends_at_once() -> None:
    """However it waits: for the word, or for something else under the same lock."""
    noted = Noted()
    noted.job.settle(OTHERS)
    assert noted.job.outcome(OWN) is noted.job.failure
    with noted.job.changed:
        assert noted.job.changed.wait_for(lambda: noted.job.cause, WAIT_S) is OTHERS
    assert noted.job.over.wait(0.0)


def test_a_failure_ends_the_waits_of_several_threads() -> None:
    """One waits for the coordinator's word, one for the end, one for something else as well."""
    noted = Noted()
    thread, raised = noted.waiting(OWN)
    seen: list[PoseidonError | bool | None] = []

    def wait_for_something() -> None:
        with noted.job.changed:
            seen.append(noted.job.changed.wait_for(lambda: noted.job.cause, WAIT_S))

    others = [
        threading.Thread(target=wait_for_something),
        threading.Thread(target=lambda: seen.append(noted.job.over.wait(WAIT_S))),
    ]
    for other in others:
        other.start()
    noted.job.settle(OTHERS)
    for each in (thread, *others):
        each.join(WAIT_S)
    assert sorted(map(str, seen)) == ["True", str(OTHERS)]
    assert raised == [noted.job.failure]
    noted.job.leave()


@pytest.mark.parametrize("is_excused", [True, False])
def test_a_loss_waits_for_the_coordinator_and_for_an_excuse(is_excused: bool) -> None:
    """The excuse is looked at when the coordinator has had its time, not before."""
    noted, looked = Noted(verdict_s=0.05, is_in=False), threading.Event()

    def unless() -> bool:
        looked.set()
        return is_excused

    noted.job.fail(PeerLost("reset"), unless=unless)
    assert noted.asked == [] and noted.job.is_open
    assert looked.wait(WAIT_S)
    assert noted.job.over.wait(0.2 if is_excused else WAIT_S) is not is_excused
    assert [str(error) for error in noted.asked] == ["reset"] * (not is_excused)


def test_what_breaks_after_the_end_is_no_failure() -> None:
    """A member that leaves neither fails nor reports, whoever says so; nor does its wait go on."""
    noted = Noted()
    noted.job.fail(PeerLost("reset"), unless=lambda: False)
    noted.job.leave()
    noted.job.fail(OWN)
    noted.job.settle(OTHERS)
    assert noted.job.fail_together(OWN) is OWN
    assert noted.job.failure is noted.job.cause is None
    assert noted.asked == noted.heard == []


def test_what_waits_for_its_answer_counts_when_the_member_leaves() -> None:
    noted = Noted()
    noted.job.fail(OWN)
    noted.job.leave()
    assert noted.job.cause is OWN and noted.heard == [noted.job.failure]


def test_leaving_ends_the_wait_of_another_thread() -> None:
    noted = Noted(is_in=True)
    waiting = threading.Thread(target=noted.job.over.wait, args=[WAIT_S])
    waiting.start()
    noted.job.leave()
    waiting.join(WAIT_S)
    assert not waiting.is_alive() and noted.job.failure is None


def test_a_member_that_gives_up_fails_nobody_before_it_leaves() -> None:
    """Its first reason counts. What the job fails of meanwhile is another matter."""
    noted = Noted()
    first = MemberError("no space left")
    noted.job.give_up(first)
    noted.job.give_up(MemberError("later"))
    assert noted.job.given_up is first and noted.job.is_open and noted.job.failure is None
    noted.job.settle(OTHERS)
    assert noted.job.given_up is first and noted.job.cause is OTHERS


@pytest.mark.parametrize("where", ["", "rank 3 was in step 41"])
def test_a_failure_is_logged_once_with_where_the_member_was(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is where it has not arrived: who waits for that raises the error as it was told."""
    noted = Noted(where=lambda: where)
    with caplog.at_level(logging.ERROR, "poseidon_tf"):
        noted.job.settle(OTHERS)
        noted.job.settle(OWN)
    assert [record.message for record in caplog.records] == [f"{OTHERS}; {where}"] * bool(where)
    assert (noted.job.failure is noted.job.cause) is (where == "")


def test_nothing_is_called_under_the_lock() -> None:
    """Other threads may come in meanwhile: what is called may wait for locks of its own."""
    is_free = []

    def look() -> None:
        def take() -> None:
            is_free.append(noted.job.changed.acquire(timeout=WAIT_S))
            noted.job.changed.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join(WAIT_S)

    def where() -> str:
        look()
        return ""

    def ask(error: PoseidonError) -> bool:
        look()
        return False

    noted = Noted(where=where)
    noted.job.ask = ask
    noted.job.on_set.append(look)
    noted.job.fail(OWN)
    assert is_free == [True] * 3
