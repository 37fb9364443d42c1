"""What members may say to the coordinator at most; what is more is refused and changes nothing."""

from typing import Any

import pytest

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.limits import (
    MAX_ADDRESS_CHARS,
    MAX_ANNOUNCE_BYTES,
    MAX_GATHER_BYTES,
    MAX_INFO_BYTES,
    MAX_NAME_CHARS,
    MAX_OPEN_GATHERS,
    MAX_PIECE_BYTES,
    MAX_TEXT_CHARS,
    piece_bytes,
)
from poseidon_tf.coordinator.messages import (
    Announce,
    Failure,
    Gather,
    Gathered,
    Join,
    MemberFailure,
    MemberKey,
    MemberMessage,
    RosterView,
)
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.errors import MemberError, ProtocolError
from poseidon_tf.transport.base import MAX_MESSAGE_BYTES
from poseidon_tf.wire import coordinator_pb2 as pb

W0, W1 = MemberKey("worker", 0), MemberKey("worker", 1)


def joining(rank: int = 0, **changes: Any) -> Join:
    fields: dict[str, Any] = dict(address="a:1", info={}, num_workers=2, num_servers=0)
    return Join(role="worker", rank=rank, **fields | changes)


def gather(name: str = "a", payload: bytes = b"", timeout_s: float = 9.0) -> Gather:
    return Gather(name=name, payload=payload, timeout_s=timeout_s)


INFO = {"x": "y" * (MAX_INFO_BYTES - len(b'{"x": ""}'))}


@pytest.mark.parametrize(
    "message",
    [
        joining(address="x" * MAX_ADDRESS_CHARS, info=INFO),
        gather(name="n" * MAX_NAME_CHARS, payload=bytes(MAX_PIECE_BYTES)),
        Announce("t" * MAX_NAME_CHARS, bytes(MAX_ANNOUNCE_BYTES)),
        MemberFailure("x" * MAX_TEXT_CHARS),
    ],
)
def test_the_largest_of_everything_arrives(message: MemberMessage) -> None:
    """What is at its limit is not beyond it."""
    assert codec.decode_member_message(codec.encode_member_message(message)) == message


@pytest.mark.parametrize(
    "message, says",
    [
        (joining(address="x" * (MAX_ADDRESS_CHARS + 1)), "an address of 301 characters"),
        (joining(info=INFO | {"x2": ""}), "a member's info of"),
        (gather(name="n" * (MAX_NAME_CHARS + 1)), "a gather whose name has 1025 characters"),
        (gather(payload=bytes(MAX_PIECE_BYTES + 1)), "a gather of .* bytes; at most"),
        (Announce("t" * (MAX_NAME_CHARS + 1), b""), "a topic of 1025 characters"),
        (Announce("t", bytes(MAX_ANNOUNCE_BYTES + 1)), "an announcement of 65537 bytes"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(message: MemberMessage, says: str) -> None:
    """The message says what was too large, and what is allowed."""
    with pytest.raises(ProtocolError, match=says):
        codec.decode_member_message(codec.encode_member_message(message))


def test_a_long_failure_is_cut_by_who_tells_it_and_refused_from_who_does_not() -> None:
    """The others hear its beginning: a failure must not fail to be heard."""
    sent = codec.encode_member_message(MemberFailure("x" * 10**6))
    told = codec.decode_member_message(sent)
    assert isinstance(told, MemberFailure)
    assert len(told.text) == MAX_TEXT_CHARS and told.text.endswith("x ...")
    passed_on = codec.encode_coordinator_message(Failure(MemberError("x" * 10**6)))
    heard = codec.decode_coordinator_message(passed_on)
    assert isinstance(heard, Failure) and len(heard.text) == MAX_TEXT_CHARS
    envelope = pb.MemberMessage(failure=pb.MemberFailure(text="x" * (MAX_TEXT_CHARS + 1)))
    with pytest.raises(ProtocolError, match="a failure told in"):
        codec.decode_member_message(envelope.SerializeToString())


def test_info_that_is_nested_without_end_is_refused() -> None:
    """JSON as deep as it is long is not followed to its end."""
    info = b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    envelope = pb.MemberMessage(join=pb.Join(role=pb.ROLE_WORKER, info=info))
    with pytest.raises(ProtocolError, match="not JSON"):
        codec.decode_member_message(envelope.SerializeToString())


@pytest.fixture
def roster() -> Roster:
    job = Roster(
        num_workers=2,
        num_servers=0,
        data_seed=0,
        incarnation=0,
        start_timeout_s=9.0,
        started_s=0.0,
    )
    job.join(joining(0))
    assert isinstance(job.join(joining(1))[0][1], RosterView)
    return job


def test_a_worker_may_not_open_gathers_without_end(roster: Roster) -> None:
    """One too many is refused, those that are open go on, and then there is room again."""
    for number in range(MAX_OPEN_GATHERS):
        assert roster.gather(W0, gather(str(number)), 0.0) == []
    with pytest.raises(ProtocolError, match=f"{MAX_OPEN_GATHERS} gathers are open already"):
        roster.gather(W0, gather("more"), 0.0)
    assert roster.failure is None
    assert roster.gather(W1, gather("7"), 0.0) == [
        (each, Gathered("7", (b"", b""))) for each in (W0, W1)
    ]
    assert roster.gather(W0, gather("more"), 0.0) == []


def test_parts_that_no_message_can_hold_together_are_refused(roster: Roster) -> None:
    """Whoever brings the part that is too much hears it; its peers' parts are kept."""
    half = bytes(MAX_GATHER_BYTES // 2)
    roster.gather(W0, gather(payload=half), 0.0)
    with pytest.raises(ProtocolError, match="its parts have .* bytes together"):
        roster.gather(W1, gather(payload=half + b"12"), 0.0)
    (_, gathered), _ = roster.gather(W1, gather(payload=half), 0.0)
    assert len(codec.encode_coordinator_message(gathered)) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("num_workers", [2, 79, 80, 1000])
def test_the_pieces_of_all_workers_fit_into_one_message(num_workers: int) -> None:
    """However many they are."""
    parts = (bytes(piece_bytes(num_workers)),) * num_workers
    gathered = codec.encode_coordinator_message(Gathered("n" * MAX_NAME_CHARS, parts))
    assert len(gathered) <= MAX_MESSAGE_BYTES
