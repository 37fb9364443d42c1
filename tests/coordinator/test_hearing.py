"""What a member believes of what it hears: nothing that is of another cluster."""

import logging
from typing import Any

import pytest

from poseidon_tf.coordinator.codec import encode_coordinator_message
from poseidon_tf.coordinator.hearing import Hearing
from poseidon_tf.coordinator.messages import (
    Announced,
    CoordinatorMessage,
    Gathered,
    Left,
    Member,
    Role,
    RosterView,
)
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import ProtocolError


def roster(*keys: tuple[Role, int]) -> RosterView:
    members = [Member(role=role, rank=rank, address="a:1", info={}) for role, rank in keys]
    return RosterView(members=tuple(members), data_seed=1, incarnation=0)


def heard_by(told: list[Any]) -> Hearing:
    """What a member of two workers and a server hears with; its callbacks fill `told`."""
    return Hearing(
        "a:1",
        num_workers=2,
        num_servers=1,
        on_failure=told.append,
        on_left=lambda *left: told.append(left),
        on_ended=lambda: told.append("ended"),
        on_offer=told.append,
        stopping=Stopping(timeout_s=1.0),
        on_announced=lambda *announced: told.append(announced),
        clock=lambda: 1.0,
        logger=logging.getLogger("test"),
    )


ALL: list[tuple[Role, int]] = [("worker", 0), ("worker", 1), ("server", 0)]


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
def test_what_does_not_fit_the_cluster_is_refused(message: CoordinatorMessage, text: str) -> None:
    """Nobody is told of it, and a gather goes on waiting for its answer."""
    told: list[Any] = []
    hearing = heard_by(told)
    hearing.open_gathers["x"] = None
    with pytest.raises(ProtocolError, match=text):
        hearing.on_message(encode_coordinator_message(message))
    assert not told and hearing.view is None and hearing.open_gathers == {"x": None}
    assert not hearing.is_heard


def test_what_fits_is_taken() -> None:
    """The same kinds of messages, as the coordinator of this cluster sends them."""
    told: list[Any] = []
    hearing = heard_by(told)
    hearing.open_gathers["x"] = None
    for message in (
        roster(*ALL),
        Gathered("x", (b"a", b"")),
        Left(role="worker", rank=1, last_step=1),
        Announced(topic="data", rank=1, payload=b"p"),
    ):
        hearing.on_message(encode_coordinator_message(message))
    assert hearing.view == roster(*ALL) and hearing.open_gathers == {"x": (b"a", b"")}
    assert told == [(1, 1), (1, "data", b"p")]
