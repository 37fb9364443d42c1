"""The roster, by feeding it events and reading what follows: who comes, and what is agreed on."""

from typing import Any

import pytest

from poseidon_tf.coordinator.messages import (
    Announce,
    Announced,
    Failure,
    Gathered,
    MemberFailure,
    MemberKey,
    Notice,
    NotNow,
    RosterView,
)
from poseidon_tf.errors import ConfigError, ProtocolError, StartTimeout, StepTimeout
from tests.coordinator.rosters import (
    ADDRESSES,
    EVERYONE,
    S0,
    S1,
    W0,
    W1,
    W2,
    assert_all_fail,
    complete_roster,
    join,
    make_roster,
    part,
)


@pytest.mark.parametrize("order", [EVERYONE, EVERYONE[::-1], [S1, W2, W0, S0, W1]])
def test_the_last_of_any_order_hands_the_roster_to_everyone(order: list[MemberKey]) -> None:
    roster = make_roster()
    assert [roster.join(join(key)) for key in order[:-1]] == [[]] * 4
    assert not roster.is_complete
    actions = roster.join(join(order[-1]))
    assert roster.is_complete
    assert sorted(key for key, _ in actions) == sorted(EVERYONE)
    (view,) = {id(message): message for _, message in actions}.values()
    assert isinstance(view, RosterView)
    assert [member.key for member in view.members] == EVERYONE
    assert view.worker_addresses == [ADDRESSES[key] for key in (W0, W1, W2)]
    assert view.server_addresses == [ADDRESSES[key] for key in (S0, S1)]
    assert view.workers[2].info == {"of": "worker rank 2"}
    assert (view.data_seed, view.incarnation) == (7, 99)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(rank=0, address="10.0.0.7:1"), ["10.0.0.7:1", "10.0.0.1:2222", "rank 0", "taken"]),
        (dict(num_workers=4), ["4 workers", "3", "TF_CONFIG"]),
        (dict(num_servers=0), ["0 servers", "2", "TF_CONFIG"]),
        (dict(rank=3), ["worker rank 3", "3 workers"]),
        (dict(role="server", rank=2), ["server 2", "2 servers"]),
    ],
)
def test_a_newcomer_that_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], says: list[str]
) -> None:
    roster = make_roster()
    for key in (W0, W2, S0, S1):
        assert roster.join(join(key)) == []
    with pytest.raises(ConfigError) as refusal:
        roster.join(join(W1, **changes))
    for words in says:
        assert words in str(refusal.value)
    assert roster.failure is None
    assert len(roster.join(join(W1))) == 5  # Complete all the same.


def test_every_ten_seconds_a_notice_names_the_missing_with_their_addresses() -> None:
    roster = make_roster()
    for key in (W1, S0):
        roster.join(join(key))
    assert roster.tick(1009.0) == []
    assert [key for key, _ in roster.tick(1010.0)] == [S0, W0, W1]  # The host hears it always.
    assert roster.tick(1015.0) == []
    roster.join(join(W0))
    expected = Notice(
        "waiting for worker rank 2 (10.0.0.3:2222), server 1 (10.0.0.9:2222): 20 s of 120 s"
    )
    assert roster.tick(1020.2) == [(S0, expected), (W0, expected), (W1, expected)]
    assert roster.tick(1020.3) == []
    assert len(roster.tick(1069.0)) == 3  # Late by four periods: one notice.
    assert roster.tick(1069.1) == []


def test_the_start_deadline_names_the_missing_and_is_remembered() -> None:
    roster = make_roster()
    roster.join(join(W0))
    assert_all_fail(
        roster.tick(1120.0),
        [W0],
        StartTimeout,
        "1 of 5 members arrived; waiting for worker rank 1 (10.0.0.2:2222), ",
    )
    assert roster.tick(1121.0) == []
    with pytest.raises(NotNow, match="1 of 5 members arrived"):
        roster.join(join(W1))


def test_who_comes_again_while_its_broken_connection_counts_is_told_to_wait() -> None:
    """It is the same process, and is taken when that connection is given up."""
    roster = make_roster()
    roster.join(join(W1, info={"identity": "a"}))
    with pytest.raises(NotNow, match="comes again, and the connection by which it has arrived"):
        roster.join(join(W1, info={"identity": "a"}))
    with pytest.raises(ConfigError, match="two processes were given the same task"):
        roster.join(join(W1, info={"identity": "b"}))
    roster.lost(W1, "it broke")
    roster.join(join(W1, info={"identity": "a"}))
    assert roster.is_present(W1)


@pytest.mark.parametrize(
    "addresses, says",
    [
        (["a:1", "b:2"], "worker rank 1 (b:2), server 0 (on the host of a:1), "),
        ([], "worker rank 1, server 0, server 1: "),
        (["a:1", ""], "worker rank 1, server 0 (on the host of a:1), server 1: "),
    ],
)
def test_servers_without_address_are_named_by_their_host_if_that_is_known(
    addresses: list[str], says: str
) -> None:
    roster = make_roster(num_workers=2, worker_addresses=addresses, server_addresses=())
    roster.join(join(W0, num_workers=2))
    ((_, notice),) = roster.tick(1010.0)
    assert isinstance(notice, Notice) and says in notice.text


def test_a_gather_hands_every_part_to_every_worker_in_rank_order() -> None:
    roster = complete_roster()
    for _ in range(2):  # The name is free again once it is complete.
        assert roster.gather(W2, part("plan", b"c"), 0.0) == []
        assert roster.gather(W0, part("plan", b"a"), 1.0) == []
        assert roster.gather(W0, part("other", b"-"), 1.0) == []
        whole = Gathered("plan", (b"a", b"b", b"c"))
        assert roster.gather(W1, part("plan", b"b"), 2.0) == [(W0, whole), (W1, whole), (W2, whole)]
        roster.gather(W1, part("other", b"-"), 2.0)
        roster.gather(W2, part("other", b"-"), 2.0)


def test_a_part_given_twice_is_refused_and_changes_nothing() -> None:
    roster = complete_roster()
    roster.gather(W0, part("plan", b"a"), 0.0)
    with pytest.raises(ProtocolError, match="worker rank 0 contributed twice to gather 'plan'"):
        roster.gather(W0, part("plan", b"other"), 0.0)
    roster.gather(W1, part("plan", b"b"), 0.0)
    ((_, gathered), *_) = roster.gather(W2, part("plan", b"c"), 0.0)
    assert gathered == Gathered("plan", (b"a", b"b", b"c"))


def test_servers_strangers_and_early_workers_may_not_gather() -> None:
    roster = complete_roster()
    with pytest.raises(ProtocolError, match="only workers"):
        roster.gather(S0, part("plan"), 0.0)
    with pytest.raises(ProtocolError, match="not here"):
        roster.gather(MemberKey("worker", 9), part("plan"), 0.0)
    early = make_roster()
    early.join(join(W0))
    with pytest.raises(ProtocolError, match="roster is complete"):
        early.gather(W0, part("plan"), 0.0)
    assert (roster.failure, early.failure) == (None, None)


def test_an_overdue_gather_is_noticed_and_then_fails_naming_who_is_missing() -> None:
    roster = complete_roster()
    roster.gather(W1, part("plan", timeout_s=600.0), 100.0)
    roster.gather(W0, part("plan", timeout_s=135.0), 105.0)  # The first deadline counts: 240.
    told: dict[tuple[int, str], list[MemberKey]] = {}
    for now_s in range(101, 240):
        for key, message in roster.tick(float(now_s)):
            assert isinstance(message, Notice)
            told.setdefault((now_s, message.text), []).append(key)
    text = (
        "worker rank 0 (10.0.0.1:2222) and 1 more wait for worker rank 2 (10.0.0.3:2222) to plan: "
    )
    assert list(told) == [(now_s, f"{text}{now_s - 100} s of 140 s") for now_s in (130, 190)]
    assert all(sorted(heard) == [W0, W1, W2] for heard in told.values())
    assert_all_fail(
        roster.tick(240.0),
        EVERYONE,
        StepTimeout,
        f"{text}140 s of 140 s",
    )


def test_who_waits_elsewhere_is_told_with_what_it_waits_for() -> None:
    """Two workers that wait for each other in different places: both places are named."""
    roster = complete_roster()
    roster.gather(W0, part("call fit"), 0.0)
    roster.gather(W1, part("call predict"), 0.0)
    roster.gather(W2, part("call predict"), 0.0)
    told = {message for _, message in roster.tick(30.0)}
    rank_0, rank_1, rank_2 = (f"{key} ({ADDRESSES[key]})" for key in (W0, W1, W2))
    assert told == {
        Notice(
            f"{rank_0} waits for {rank_1}, {rank_2} to call fit: 30 s of 60 s; "
            f"{rank_1} waits for all workers to call predict; "
            f"{rank_2} waits for all workers to call predict"
        ),
        Notice(
            f"{rank_1} and 1 more wait for {rank_0} to call predict: 30 s of 60 s; "
            f"{rank_0} waits for all workers to call fit"
        ),
    }


@pytest.mark.parametrize("lost", [W1, S1])
def test_who_is_lost_before_everyone_has_arrived_may_come_again(lost: MemberKey) -> None:
    """It is no failure: the others are told, and the replacement completes the roster."""
    roster = make_roster()
    for key in (W0, W1, S0, S1):
        roster.join(join(key))
    text = f"{lost} ({ADDRESSES[lost]}) was lost before everyone had arrived (reset)"
    notices = roster.lost(lost, "reset")
    assert sorted(key for key, _ in notices) == sorted({W0, W1, S0, S1} - {lost})
    assert all(isinstance(m, Notice) and m.text.startswith(text) for _, m in notices)
    assert roster.failure is None
    assert roster.join(join(W2)) == []
    views = roster.join(join(lost, address="10.0.0.50:1"))
    assert len(views) == 5
    view = views[0][1]
    assert isinstance(view, RosterView)
    assert "10.0.0.50:1" in [member.address for member in view.members]


def test_a_newcomer_waits_for_the_next_run_once_this_one_has_begun() -> None:
    """A rank that is there already, a failed job and one that has ended: none is its own fate."""
    running, failed, ended = complete_roster(), complete_roster(), complete_roster()
    failed.lost(S0, "reset")
    for key in (W0, W1, W2):
        ended.goodbye(key, 3)
    for roster, state in (
        (running, "has that rank already, at 10.0.0.2:2222"),
        (failed, "has failed (server 0 (10.0.0.8:2222) closed its connection"),
        (ended, "has ended"),
    ):
        with pytest.raises(NotNow) as refusal:
            roster.join(join(W1, address="10.0.0.50:1"))
        assert "worker rank 1 (10.0.0.50:1) is not of the run" in str(refusal.value)
        assert f"that one {state}" in str(refusal.value)
    assert running.failure is None
    assert len(running.announce(W0, Announce("data", b""))) == 2  # Nothing has changed.


def test_a_newcomer_told_of_another_cluster_waits_for_a_failed_run_to_end() -> None:
    """The run that it does not fit is not the one that it is for."""
    roster = make_roster()
    roster.join(join(W0))
    with pytest.raises(ConfigError):
        roster.join(join(W1, num_workers=7))
    roster.fail(W0, MemberFailure("why"))
    with pytest.raises(NotNow):
        roster.join(join(W1, num_workers=7))


def test_an_announcement_reaches_the_other_workers_that_are_still_there() -> None:
    roster = complete_roster()
    announced = Announced(topic="data", rank=1, payload=b"5")
    assert roster.announce(W1, Announce("data", b"5")) == [(W0, announced), (W2, announced)]
    roster.goodbye(W0, 3)
    assert roster.announce(W1, Announce("data", b"5")) == [(W2, announced)]


def test_only_members_of_a_complete_roster_announce() -> None:
    """A server announces to all workers; nobody does before everyone has arrived."""
    roster = make_roster()
    roster.join(join(W0))
    with pytest.raises(ProtocolError, match="worker rank 0 .* may not announce 'data'"):
        roster.announce(W0, Announce("data", b""))
    roster = complete_roster()
    announced = Announced(topic="end", rank=1, payload=b"")
    assert roster.announce(S1, Announce("end", b"")) == [(key, announced) for key in (W0, W1, W2)]
    roster.fail(W1, MemberFailure("why"))
    ((key, message),) = roster.announce(W0, Announce("data", b""))
    assert key == W0 and isinstance(message, Failure)
