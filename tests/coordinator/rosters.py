"""A roster of three workers and two servers, and what its members say."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from poseidon_tf.coordinator.messages import CoordinatorMessage, Failure, Gather, Join, MemberKey
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.errors import PoseidonError

W0, W1, W2 = (MemberKey("worker", rank) for rank in range(3))
S0, S1 = (MemberKey("server", rank) for rank in range(2))
EVERYONE = [W0, W1, W2, S0, S1]
ADDRESSES = {
    W0: "10.0.0.1:2222",
    W1: "10.0.0.2:2222",
    W2: "10.0.0.3:2222",
    S0: "10.0.0.8:2222",
    S1: "10.0.0.9:2222",
}


def make_roster(**changes: Any) -> Roster:
    description: dict[str, Any] = dict(
        num_workers=3,
        num_servers=2,
        worker_addresses=[ADDRESSES[key] for key in (W0, W1, W2)],
        server_addresses=[ADDRESSES[key] for key in (S0, S1)],
        data_seed=7,
        incarnation=99,
        start_timeout_s=120.0,
        started_s=1000.0,
    )
    return Roster(**(description | changes))


def join(key: MemberKey, **changes: Any) -> Join:
    newcomer = Join(
        role=key.role,
        rank=key.rank,
        address=ADDRESSES[key],
        info={"of": str(key)},
        num_workers=3,
        num_servers=2,
    )
    return replace(newcomer, **changes)


def complete_roster() -> Roster:
    roster = make_roster()
    for key in EVERYONE:
        roster.join(join(key))
    return roster


def part(name: str, payload: bytes = b"", timeout_s: float = 60.0) -> Gather:
    return Gather(name=name, payload=payload, timeout_s=timeout_s)


def assert_all_fail(
    actions: Sequence[tuple[MemberKey, CoordinatorMessage]],
    recipients: Iterable[MemberKey],
    kind: type[PoseidonError],
    text: str,
) -> None:
    assert sorted(key for key, _ in actions) == sorted(recipients)
    for _, message in actions:
        assert isinstance(message, Failure)
        assert type(message.error) is kind
        assert text in message.text
