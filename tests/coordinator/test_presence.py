"""How far a member comes, and what it believes of what it hears: nothing of another cluster."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.codec import encode_coordinator_message
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import (
    Announced,
    CoordinatorMessage,
    Ended,
    Failure,
    Gathered,
    Left,
    Member,
    NotNow,
    Role,
    RosterView,
)
from poseidon_tf.coordinator.presence import Presence, State, Step
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import MemberError, PeerLost, ProtocolError


def roster(*keys: tuple[Role, int]) -> RosterView:
    members = [Member(role=role, rank=rank, address="a:1", info={}) for role, rank in keys]
    return RosterView(members=tuple(members), data_seed=1, incarnation=0)


@pytest.fixture
def told() -> list[Any]:
    """What the member's callbacks were called with."""
    return []


@pytest.fixture
def client(told: list[Any]) -> Iterator[CoordinatorClient]:
    """A member of two workers and a server."""
    job_failure = JobFailure()
    job_failure.on_set.append(lambda: told.append(job_failure.cause))
    client = CoordinatorClient(
        "a:1",
        role="worker",
        rank=0,
        own_address="b:1",
        info={},
        num_workers=2,
        num_servers=1,
        job_failure=job_failure,
        on_left=lambda *left: told.append(left),
        on_ended=lambda: told.append("ended"),
        on_announced=lambda *announced: told.append(announced),
        clock=lambda: 1.0,
    )
    yield client
    client.close()


ALL: list[tuple[Role, int]] = [("worker", 0), ("worker", 1), ("server", 0)]


@pytest.mark.connections
@pytest.mark.parametrize(
    "message, text",
    [
        (roster(), "a roster of 0 members"),
        (roster(*ALL[:2]), "a roster of 2 members"),
        (roster(*reversed(ALL)), "not this cluster's"),
        (roster(*ALL, ("server", 1)), "a roster of 4 members"),
        (Gathered("x", ()), "gather 'x' has 0 parts, of 2 workers"),
        (Gathered("x", (b"", b"", b"")), "gather 'x' has 3 parts"),
        (Left(role="worker", rank=2, last_step=1), "worker 2 has left"),
        (Left(role="server", rank=0, last_step=1), "server 0 has left"),
        (Announced(topic="data", rank=2, payload=b""), "rank 2 has announced"),
    ],
)
def test_what_does_not_fit_the_cluster_is_refused(
    client: CoordinatorClient, told: list[Any], message: CoordinatorMessage, text: str
) -> None:
    """Nobody is told of it, nothing changes, and a gather goes on waiting for its answer."""
    presence = client._presence
    presence.open_gathers["x"] = None
    before = copy.deepcopy(vars(presence) | {"stopping": None})
    with pytest.raises(ProtocolError, match=text):
        client.on_message(encode_coordinator_message(message))
    assert not told and presence.view is None and presence.open_gathers == {"x": None}
    assert vars(presence) | {"stopping": None} == before


@pytest.mark.connections
def test_what_fits_is_taken(client: CoordinatorClient, told: list[Any]) -> None:
    """The same kinds of messages, as the coordinator of this cluster sends them."""
    presence = client._presence
    presence.open_gathers["x"] = None
    messages: list[CoordinatorMessage] = [
        roster(*ALL),
        Gathered("x", (b"a", b"")),
        Left(role="worker", rank=1, last_step=1),
        Announced(topic="data", rank=1, payload=b"p"),
    ]
    for message in messages:
        client.on_message(encode_coordinator_message(message))
    assert presence.view == roster(*ALL) and presence.open_gathers == {"x": (b"a", b"")}
    assert told == [(1, 1), (1, "data", b"p")]


def presence_in(state: State) -> Presence:
    """A member's that has come so far."""
    presence = Presence(num_workers=2, num_servers=1, stopping=Stopping(timeout_s=1.0))
    presence.state = state
    return presence


def test_a_member_goes_from_state_to_state_and_never_back() -> None:
    """But for another attempt to arrive. Whoever leaves does not come back by any step."""
    ways = {
        State.NEW: {State.ARRIVING, State.LEAVING},
        State.ARRIVING: {State.NEW, State.JOINED, State.LEAVING},
        State.JOINED: {State.LEAVING, State.CLOSED},
        State.LEAVING: {State.CLOSED},
        State.CLOSED: set(),
    }
    found: dict[State, set[State]] = {state: set() for state in State}
    for state, step in itertools.product(State, Step):
        presence = presence_in(state)
        presence.take(step)
        found[state] |= {presence.state} - {state}
    assert found == ways


@pytest.mark.connections
@pytest.mark.parametrize("state", State)
def test_the_end_of_the_stream_is_a_surprise_to_who_takes_part_alone(
    client: CoordinatorClient, told: list[Any], state: State
) -> None:
    client._presence.state = state
    client.on_closed(PeerLost("reset"))
    assert len(told) == (state is State.JOINED)
    assert not client._presence.has_stream
    for error in told:
        assert str(error) == "the coordinator (worker rank 0 at a:1) closed the connection: reset"


@pytest.mark.connections
@pytest.mark.parametrize("state", State)
def test_a_failure_is_that_of_whoever_has_not_left(
    client: CoordinatorClient, told: list[Any], state: State
) -> None:
    """Also of who still waits for the others. A refusal for now is none."""
    client._presence.state = state
    client.on_message(encode_coordinator_message(Failure(NotNow("the last run"))))
    assert not told and client._presence.not_now == "the last run"
    error = MemberError("worker rank 1 failed")
    client.on_message(encode_coordinator_message(Failure(error)))
    assert [str(each) for each in told] == [str(error)] * (state in (State.ARRIVING, State.JOINED))


@pytest.mark.connections
def test_after_the_end_of_the_job_nothing_is_a_surprise(
    client: CoordinatorClient, told: list[Any]
) -> None:
    client._presence.state = State.JOINED
    client.on_message(encode_coordinator_message(Ended(preempted=True)))
    client.on_closed(PeerLost("reset"))
    assert told == ["ended"] and client.is_preempted
    assert client._presence.state is State.CLOSED
