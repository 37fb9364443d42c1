"""Stopping together: workers and a roster that exchange messages in every order."""

import random
from typing import Any

import pytest

from poseidon_tf.coordinator.messages import (
    Failure,
    MemberFailure,
    MemberKey,
    Notice,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import MemberError, ProtocolError, StepTimeout
from tests.coordinator.rosters import S0, W0, W1, W2, complete_roster

pytestmark = pytest.mark.connections


class Cluster:
    """Three workers that run executions of which none ends before all have begun it."""

    def __init__(
        self,
        seed: int,
        wishes: dict[MemberKey, set[int]],
        *,
        epoch: int = 100,
        is_tied: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.wishes = wishes  # By rank: the executions after which its callbacks want to stop.
        self.epoch, self.is_tied = epoch, is_tied
        self.roster = complete_roster()
        self.workers = {key: Stopping(timeout_s=60.0) for key in (W0, W1, W2)}
        self.to_roster: list[tuple[MemberKey, StopOffer]] = []  # In order per worker.
        self.to_worker: dict[MemberKey, list[Any]] = {key: [] for key in self.workers}
        self.begun = dict.fromkeys(self.workers, 0)
        self.running = dict.fromkeys(self.workers, False)
        self.stopped: dict[MemberKey, int] = {}
        self.num_waits = 0

    def send(self, key: MemberKey, offer: StopOffer | None) -> None:
        if offer is not None:
            self.to_roster.append((key, offer))

    def may_do(self) -> list[tuple[str, MemberKey]]:
        """Everything that could happen next."""
        moves = [("hear", key) for key in self.workers if self.to_worker[key]]
        senders = list(dict.fromkeys(key for key, _ in self.to_roster))
        moves += [("deliver", key) for key in senders]
        for key, worker in self.workers.items():
            if key in self.stopped:
                continue
            if worker.must_wait:
                self.num_waits += 1
            elif not self.running[key]:
                moves.append(("begin", key))
            elif not self.is_tied or min(self.begun.values()) >= self.begun[key]:
                moves.append(("end", key))
        return moves

    def do(self, what: str, key: MemberKey) -> None:
        worker = self.workers[key]
        if what == "deliver":
            at = next(at for at, (sender, _) in enumerate(self.to_roster) if sender == key)
            _, offer = self.to_roster.pop(at)
            for recipient, message in self.roster.offer_stop(key, offer, 1001.0):
                self.to_worker[recipient].append(message)
        elif what == "hear":
            match self.to_worker[key].pop(0):
                case StopAsked(number=number, after=after):
                    self.send(key, worker.asked(number, after))
                case StopAgreed(after=after):
                    worker.agree(after)
        elif what == "begin":
            self.running[key] = True
            self.begun[key] += 1
            self.send(key, worker.begin())
        else:
            self.running[key] = False
            self.send(key, worker.end())
            if self.begun[key] in self.wishes.get(key, ()):
                self.send(key, worker.want())
            if self.begun[key] == self.epoch:
                self.send(key, worker.pause())
                self.stopped[key] = self.begun[key]

    def run(self) -> dict[MemberKey, int]:
        while len(self.stopped) < len(self.workers):
            moves = self.may_do()
            assert moves, "nobody can go on"
            self.do(*self.random.choice(moves))
            for key, worker in self.workers.items():
                if worker.is_due and not self.running[key]:
                    self.stopped.setdefault(key, self.begun[key])
        return self.stopped


def stops(wishes: dict[MemberKey, set[int]], **options: Any) -> list[list[int]]:
    """By seed of the order of events, after which execution each of the workers stopped."""
    return [list(Cluster(seed, wishes, **options).run().values()) for seed in range(200)]


def test_one_worker_stops_all_after_one_more_execution() -> None:
    """Whatever the order of events: others may have begun it already, so always that one."""
    assert stops({W1: {4}}) == [[5, 5, 5]] * 200


def test_workers_that_all_want_to_stop_run_nothing_more() -> None:
    """As in one process, where the same callback stops after the same execution."""
    assert stops({W0: {4}, W1: {4}, W2: {4}}) == [[4, 4, 4]] * 200


def test_two_of_three_stop_all_after_one_more_execution() -> None:
    """Also when one wants to stop after the execution that the other adds."""
    assert stops({W0: {4}, W2: {4}}) == [[5, 5, 5]] * 200
    assert stops({W0: {4}, W2: {5}}) == [[5, 5, 5]] * 200


def test_workers_that_need_not_wait_for_each_other_still_stop_at_the_same_place() -> None:
    """Steps without an exchange let workers run ahead; none stops earlier than another is."""
    found = stops({W1: {4}}, is_tied=False)
    assert all(len(set(each)) == 1 and each[0] >= 5 for each in found)
    assert len({each[0] for each in found}) > 1, "nobody ran ahead"


def test_a_wish_in_the_last_execution_of_an_epoch_is_heard_by_those_who_have_ended_it() -> None:
    """They offer where they are, and nobody waits for an execution that does not come."""
    assert stops({W1: {4}}, epoch=4) == [[4, 4, 4]] * 200


def test_nothing_is_said_and_nobody_waits_while_nobody_wants_to_stop() -> None:
    """A step without a wish costs no message."""
    cluster = Cluster(0, {}, epoch=50)
    cluster.run()
    assert cluster.num_waits == 0
    assert cluster.to_roster == [] and not any(cluster.to_worker.values())


def test_the_next_stop_is_another_one() -> None:
    """Once forgotten it can be asked for again, and by another worker, before all forgot."""
    first, second = Stopping(timeout_s=1.0), Stopping(timeout_s=1.0)
    assert first.want() == StopOffer(number=1, after=0, timeout_s=1.0)
    assert second.asked(1, 0) == StopOffer(number=1, after=0, timeout_s=1.0)
    for each in (first, second):
        each.agree(0)
        assert each.is_due
    assert first.want() is None, "it has been agreed already"
    first.forget()
    assert first.want() == StopOffer(number=2, after=0, timeout_s=1.0)
    assert second.asked(2, 0) == StopOffer(number=2, after=0, timeout_s=1.0)
    assert second.must_wait and not second.is_due


def offer(after: int, number: int = 1, timeout_s: float = 60.0) -> StopOffer:
    return StopOffer(number=number, after=after, timeout_s=timeout_s)


def test_the_first_offer_asks_the_others_and_the_last_one_settles_it() -> None:
    """Only workers hear of it; the latest execution counts."""
    roster = complete_roster()
    asked = StopAsked(number=1, after=7)
    assert roster.offer_stop(W1, offer(7), 1001.0) == [(W0, asked), (W2, asked)]
    assert roster.offer_stop(W0, offer(8), 1001.0) == []
    agreed = StopAgreed(number=1, after=8)
    assert roster.offer_stop(W2, offer(7), 1001.0) == [(W0, agreed), (W1, agreed), (W2, agreed)]
    assert roster.offer_stop(W0, offer(9, number=2), 1002.0)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_an_offer_out_of_turn_is_refused_and_changes_nothing(number: int) -> None:
    """Twice for one stop, or for one that is over or not asked for."""
    roster = complete_roster()
    roster.offer_stop(W0, offer(3), 1001.0)
    with pytest.raises(ProtocolError, match=f"stop {number} twice, or out of turn"):
        roster.offer_stop(W0, offer(4, number), 1001.0)
    roster.offer_stop(W1, offer(3), 1001.0)
    assert roster.offer_stop(W2, offer(3), 1001.0)[0][1] == StopAgreed(number=1, after=3)


def test_servers_may_not_stop_the_job() -> None:
    """They run no executions."""
    with pytest.raises(ProtocolError, match="only workers may"):
        complete_roster().offer_stop(S0, offer(1), 1001.0)


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_worker_that_has_left_is_not_waited_for(leaves_first: bool) -> None:
    """It begins nothing more, whether it leaves before or while the others agree."""
    roster = complete_roster()
    if leaves_first:
        roster.goodbye(W2, 5)
    roster.offer_stop(W0, offer(3), 1001.0)
    settled = roster.offer_stop(W1, offer(4), 1001.0)
    if not leaves_first:
        assert settled == []
        settled = roster.goodbye(W2, 5)
    agreed = StopAgreed(number=1, after=4)
    assert [each for each in settled if each[1] == agreed] == [(W0, agreed), (W1, agreed)]


def test_an_overdue_stop_is_noticed_and_then_fails_naming_who_is_missing() -> None:
    """Everyone hears of it, and later offers get the failure."""
    roster = complete_roster()
    roster.offer_stop(W0, offer(3, timeout_s=120.0), 1000.0)
    roster.offer_stop(W2, offer(3, timeout_s=120.0), 1000.0)
    assert roster.tick(1005.0) == []
    missing = (
        "all workers are asked to stop together; that waits for worker rank 1 (10.0.0.2:2222) to "
        "end a step, or to call stop_requested: "
    )
    assert {m for _, m in roster.tick(1031.0)} == {Notice(f"{missing}31 s of 120 s")}
    assert roster.tick(1089.0) == []
    assert all(isinstance(m, Notice) for _, m in roster.tick(1091.0))
    failed = roster.tick(1120.0)
    assert len(failed) == 5
    for _, message in failed:
        assert isinstance(message, Failure) and type(message.error) is StepTimeout
        assert message.text == f"{missing}120 s of 120 s"
    assert isinstance(roster.offer_stop(W1, offer(3), 1121.0)[0][1], Failure)


def test_a_failure_while_workers_agree_goes_to_all_and_ends_the_stop() -> None:
    """Nobody is told to stop afterwards."""
    roster = complete_roster()
    roster.offer_stop(W0, offer(3), 1001.0)
    failed = roster.fail(W1, MemberFailure("out of memory"))
    assert {isinstance(m, Failure) and type(m.error) for _, m in failed} == {MemberError}
    assert roster.tick(9999.0) == []
