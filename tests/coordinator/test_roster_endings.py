"""The roster, by feeding it events and reading what follows: goodbyes, losses and failures."""

import pytest

from poseidon_tf.coordinator.messages import Ended, Gathered, Left, MemberFailure, MemberKey, NotNow
from poseidon_tf.errors import (
    ConfigError,
    DriftError,
    MemberError,
    NumericsError,
    PeerLost,
    PlanError,
    PoseidonError,
    StepTimeout,
)
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


def test_a_goodbye_is_told_to_the_others_and_the_last_one_ends_the_servers() -> None:
    roster = complete_roster()
    others = [key for key in sorted(EVERYONE) if key != W2]
    left = Left(role="worker", rank=2, last_step=41)
    assert roster.goodbye(W2, 41) == [(key, left) for key in others]
    assert roster.lost(W2, "closed") == []  # After a goodbye that is in order.
    roster.goodbye(W0, 41)
    assert not roster.has_ended
    actions = roster.goodbye(W1, 41)
    assert [action for action in actions if isinstance(action[1], Ended)] == [
        (S0, Ended()),
        (S1, Ended()),
    ]
    assert roster.has_ended
    assert roster.lost(S0, "closed") == []
    assert roster.goodbye(S1, -1) == []
    assert roster.tick(1e9) == []
    assert roster.failure is None


def test_leaving_while_others_wait_fails_the_job_at_once() -> None:
    roster = complete_roster()
    roster.gather(W0, part("x"), 0.0)
    assert_all_fail(
        roster.goodbye(W2, 41),
        [W0, W1, S0, S1],
        MemberError,
        "worker rank 2 (10.0.0.3:2222) left after step 41 while rank 0 waits for it to x",
    )


def test_waiting_for_someone_who_left_before_fails_the_job_at_once() -> None:
    roster = complete_roster()
    roster.goodbye(W2, -1)
    assert_all_fail(
        roster.gather(W1, part("x"), 0.0),
        [W0, W1, S0, S1],
        MemberError,
        "worker rank 2 (10.0.0.3:2222) left before its first step while rank 1 waits for it to x",
    )


def test_a_leaver_that_had_contributed_is_not_missed() -> None:
    roster = complete_roster()
    roster.gather(W2, part("x", b"c"), 0.0)
    assert {type(message) for _, message in roster.goodbye(W2, 5)} == {Left}
    roster.gather(W0, part("x", b"a"), 0.0)
    gathered = Gathered("x", (b"a", b"b", b"c"))
    assert roster.gather(W1, part("x", b"b"), 0.0) == [(W0, gathered), (W1, gathered)]


@pytest.mark.parametrize("leaver, arrived", [(W1, [W0, W1]), (S0, EVERYONE)])
def test_leaving_too_early_fails_the_job(leaver: MemberKey, arrived: list[MemberKey]) -> None:
    roster = make_roster()
    for key in arrived:
        roster.join(join(key))
    remaining = [key for key in arrived if key != leaver]
    assert_all_fail(roster.goodbye(leaver, -1), remaining, MemberError, f"{leaver} (10.0.0.")


@pytest.mark.parametrize("lost", [W1, S1])
def test_a_lost_member_fails_the_job_for_all_that_remain(lost: MemberKey) -> None:
    roster = complete_roster()
    assert_all_fail(
        roster.lost(lost, "connection reset"),
        [key for key in EVERYONE if key != lost],
        PeerLost,
        f"{lost} ({ADDRESSES[lost]}) closed its connection without a goodbye: connection reset",
    )


@pytest.mark.parametrize("who", [None, W1])
def test_the_end_tells_whether_some_worker_left_before_it_was_done(who: MemberKey | None) -> None:
    """Servers end differently then: whoever starts processes again must start them too."""
    roster = complete_roster()
    for key in (W0, W1, W2):
        actions = roster.goodbye(key, 3, preempted=key == who)
    assert (S0, Ended(preempted=who is not None)) in actions


@pytest.mark.parametrize("kind", [StepTimeout, DriftError, NumericsError, PeerLost, MemberError])
def test_an_error_that_a_worker_reports_is_raised_as_it_is_on_all(
    kind: type[PoseidonError],
) -> None:
    """The reporter included, so that all raise one type and one text."""
    text = "worker rank 1 (10.0.0.2:2222) waited 9 s for 'fc': missing: worker rank 2"
    roster = complete_roster()
    assert_all_fail(roster.fail(W1, MemberFailure(text, kind)), EVERYONE, kind, text)
    assert str(roster.failure) == text and type(roster.failure) is kind
    assert roster.fail(W2, MemberFailure("later", kind)) == []


def test_an_error_that_does_not_name_who_reports_it_gets_that_name() -> None:
    """Someone else may be at fault: the reporter has not failed."""
    roster = complete_roster()
    roster.fail(W1, MemberFailure("server 0 (10.0.0.8:2222): connection reset", PeerLost))
    assert str(roster.failure) == (
        "worker rank 1 (10.0.0.2:2222) reports: server 0 (10.0.0.8:2222): connection reset"
    )


@pytest.mark.parametrize("kind", [ConfigError, PlanError, DriftError])
def test_an_error_that_all_workers_find_alike_is_nobodys(kind: type[PoseidonError]) -> None:
    """Whoever happens to report it first; its text is the others' own."""
    roster = complete_roster()
    roster.fail(W2, MemberFailure("the workers have different models", kind))
    assert type(roster.failure) is kind
    assert str(roster.failure) == "the workers have different models"


def test_the_first_failure_is_kept_and_every_later_event_hears_it() -> None:
    roster = make_roster()
    for key in (W0, W1, S0):
        roster.join(join(key))
    text = "worker rank 1 (10.0.0.2:2222) failed: no space left"
    assert_all_fail(
        roster.fail(W1, MemberFailure("no space left")), [W0, W1, S0], MemberError, text
    )
    assert roster.fail(W0, MemberFailure("me too")) == []
    assert roster.lost(S0, "gone") == []
    assert roster.goodbye(W1, 3) == []
    assert_all_fail(roster.gather(W0, part("x"), 0.0), [W0], MemberError, text)
    with pytest.raises(NotNow, match="no space left"):
        roster.join(join(W2))
    assert str(roster.failure) == text
