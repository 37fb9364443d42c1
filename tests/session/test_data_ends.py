"""Where the data of several workers ends: nobody asks before somebody has run out."""

import functools
import struct
import threading
from typing import Any

import pytest

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import MemberError, PoseidonError, ProtocolError, StepTimeout
from poseidon_tf.session.data_ends import Count, DataEnds, IteratorEnds
from poseidon_tf.session.naming import WorkerNames

WAIT_S = 20.0  # Far more than anything here takes.


def test_nothing_is_announced_while_nobody_has_run_out() -> None:
    """Equal data costs no message."""
    state = IteratorEnds(num_workers=2, rank=0)
    for elements in range(1, 5):
        state.saw(0, Count(elements))
        state.saw(1, Count(elements))
        assert state.to_announce() is None


def test_once_somebody_has_run_out_every_element_is_announced_once() -> None:
    """Who has run out can ask nobody: it must be told."""
    state = IteratorEnds(num_workers=2, rank=0)
    state.saw(0, Count(3))
    state.saw(1, Count(1, True))
    assert state.to_announce() == Count(3)
    assert state.to_announce() is None
    state.saw(0, Count(4))
    assert state.to_announce() == Count(4)
    state.saw(0, Count(4, True))
    assert state.to_announce() == Count(4, True)
    assert state.to_announce() is None


def test_a_step_exists_if_anyone_has_it_and_ends_when_all_have_run_out() -> None:
    """Counts arrive in any order; until they do, an element may exist."""
    state = IteratorEnds(num_workers=3, rank=0)
    state.saw(0, Count(1, True))
    state.saw(2, Count(2))
    assert state.has_element(1) is True
    assert state.has_element(2) is None and state.undecided() == [1, 2]
    state.saw(2, Count(2, True))
    state.saw(2, Count(1))  # Late.
    assert state.has_element(2) is None and state.undecided() == [1]
    state.saw(1, Count(0, True))
    assert state.has_element(2) is False and state.has_element(1) is True


class Workers:
    """Two workers whose announcements wait in a list until a test delivers them."""

    def __init__(self, timeout_s: float = WAIT_S, verdict_s: float = 0.0) -> None:
        self.job_failure = JobFailure(verdict_s=verdict_s)
        self.job_failure.ask = self.ask_coordinator
        self.failed_with: list[PoseidonError] = []
        self.messages: list[tuple[int, bytes]] = []
        self.has_news = threading.Semaphore(0)
        self.ends = [
            DataEnds(
                num_workers=2,
                rank=rank,
                announce=functools.partial(self.announce, rank),
                job_failure=self.job_failure,
                names=WorkerNames(["10.0.0.1:1", "10.0.0.2:1"]),
                timeout_s=timeout_s,
            )
            for rank in range(2)
        ]

    def ask_coordinator(self, error: PoseidonError) -> bool:
        self.failed_with.append(error)
        return False

    def announce(self, rank: int, message: bytes) -> None:
        self.messages.append((rank, message))
        self.has_news.release()

    def deliver(self) -> None:
        """Hand over one announcement, once there is one."""
        assert self.has_news.acquire(timeout=WAIT_S)
        rank, message = self.messages.pop(0)
        self.ends[1 - rank].heard(rank, message)

    def ask(self, index: int) -> tuple[threading.Thread, list[Any]]:
        """Rank 0, which has run out, asks for a step of dataset 5, iterator 2."""
        answers: list[Any] = []

        def wait() -> None:
            try:
                answers.append(self.ends[0].has_step(5, 2, index, False))
            except Exception as failure:
                answers.append(failure)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread, answers


def answer_of(asked: tuple[threading.Thread, list[Any]]) -> Any:
    thread, answers = asked
    thread.join(WAIT_S)
    return answers[0]


def test_who_has_run_out_goes_on_while_the_other_has_data() -> None:
    """It learns what the other has, element by element, and at last that there is no more."""
    workers = Workers()
    assert workers.ends[1].has_step(5, 2, 0, True)
    asked = workers.ask(0)
    workers.deliver()  # Rank 0 has run out; rank 1 answers at once.
    workers.deliver()
    assert answer_of(asked) is True
    asked = workers.ask(1)
    assert workers.ends[1].has_step(5, 2, 1, True)
    workers.deliver()
    assert answer_of(asked) is True
    asked = workers.ask(2)
    assert not workers.ends[1].has_step(5, 2, 2, False)
    workers.deliver()
    assert answer_of(asked) is False
    assert not workers.messages


def test_an_iterator_that_is_dropped_waits_no_longer() -> None:
    """Keras opens iterators that it never reads to the end."""
    workers = Workers()
    asked = workers.ask(0)
    workers.deliver()
    workers.ends[0].drop(5, 2)
    assert answer_of(asked) is False
    assert not workers.failed_with


def test_who_has_left_has_no_more_data() -> None:
    workers = Workers()
    asked = workers.ask(0)
    workers.ends[0].left(1)
    assert answer_of(asked) is False


def test_a_failure_ends_the_wait() -> None:
    workers = Workers()
    asked = workers.ask(0)
    failure = MemberError("worker rank 1 failed")
    workers.job_failure.settle(failure)
    assert answer_of(asked) is failure


def test_whoever_gives_up_raises_what_the_coordinator_says() -> None:
    """Its word comes while this worker waits for it."""
    workers = Workers(timeout_s=0.05, verdict_s=10 * WAIT_S)
    word = MemberError("worker rank 1 failed")
    coordinator = threading.Thread(target=workers.job_failure.settle, args=[word])

    def ask(error: PoseidonError) -> bool:
        coordinator.start()
        return True

    workers.job_failure.ask = ask
    assert answer_of(workers.ask(3)) is word
    coordinator.join()
    workers.job_failure.leave()


def test_a_wait_has_a_deadline_that_names_who_was_waited_for() -> None:
    workers = Workers(timeout_s=0.05)
    answer = answer_of(workers.ask(3))
    assert isinstance(answer, StepTimeout) and workers.failed_with == [answer]
    assert str(answer) == (
        "worker rank 0 (10.0.0.1:1) has run out of data at element 3 of dataset 5 and did not hear "
        "in 0.05 s whether worker rank 1 (10.0.0.2:1) has more"
    )


def test_garbage_is_refused() -> None:
    with pytest.raises(ProtocolError, match="rank 1 announced 3 bytes"):
        Workers().ends[0].heard(1, b"abc")


@pytest.mark.parametrize("numbers", [(-1, 0, 3), (0, -1, 3), (0, 0, -3)])
def test_an_announcement_of_impossible_numbers_is_refused(numbers: tuple[int, int, int]) -> None:
    """Nothing counts from below zero."""
    ends = alone()
    with pytest.raises(ProtocolError, match="rank 1 announced"):
        ends.heard(1, struct.pack("<qqq?", *numbers, True))


@pytest.mark.parametrize("rank", [-1, 0, 2, 2**32 - 1])
def test_only_the_other_workers_are_heard(rank: int) -> None:
    """What somebody else says of their data says nothing of any worker's."""
    ends = alone()
    with pytest.raises(ProtocolError, match=f"rank {rank} announced its data to rank 0"):
        ends.heard(rank, struct.pack("<qqq?", 0, 0, 7, True))
    assert not ends._iterators


def test_a_worker_may_not_name_iterators_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be remembered; those that are known go on."""
    monkeypatch.setattr("poseidon_tf.session.data_ends._MAX_ITERATORS", 3)
    ends = alone()
    for dataset in range(3):
        ends.heard(1, struct.pack("<qqq?", dataset, 0, 1, True))
    with pytest.raises(ProtocolError, match="3 iterators are known"):
        ends.heard(1, struct.pack("<qqq?", 3, 0, 1, True))
    ends.heard(1, struct.pack("<qqq?", 2, 0, 5, True))
    assert ends.has_step(2, 0, 4, has_element=False)


def alone() -> DataEnds:
    """Rank 0 of two workers, whose announcements go nowhere."""
    return DataEnds(
        num_workers=2,
        rank=0,
        announce=lambda message: None,
        job_failure=JobFailure(),
        names=WorkerNames(),
        timeout_s=WAIT_S,
    )
