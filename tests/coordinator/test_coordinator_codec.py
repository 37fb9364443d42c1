"""Coordinator messages survive the wire, and garbage does not."""

from typing import Any

import pytest

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.messages import (
    Announce,
    Announced,
    CoordinatorMessage,
    Ended,
    Failure,
    Gather,
    Gathered,
    Goodbye,
    Join,
    Left,
    Member,
    MemberFailure,
    MemberMessage,
    Notice,
    Ping,
    Pong,
    RosterView,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.errors import (
    ConfigError,
    DriftError,
    MemberError,
    NumericsError,
    PeerLost,
    PlanError,
    PoseidonError,
    ProtocolError,
    StartTimeout,
    StepTimeout,
)
from poseidon_tf.wire import coordinator_pb2 as pb

JOIN = Join(
    role="server", rank=0, address="[::1]:5", info={"cpu": [1]}, num_workers=2, num_servers=1
)


@pytest.mark.parametrize(
    "message",
    [
        JOIN,
        Gather(name="plan", payload=b"\x00\xff", timeout_s=1.5),
        Gather(name="", payload=b"", timeout_s=1.0),
        MemberFailure("nö"),
        MemberFailure(""),
        *(MemberFailure("why", kind) for kind in (MemberError, StepTimeout, PeerLost)),
        *(MemberFailure("why", kind) for kind in (PlanError, DriftError, NumericsError)),
        Goodbye(0),
        Goodbye(-1),
        Ping(0.0),
        Ping(1.7e9),
        StopOffer(number=1, after=0, timeout_s=0.5),
        Announce("", b""),
        Announce("data", b"\x00\xff"),
    ],
)
def test_a_member_message_comes_back_equal(message: MemberMessage) -> None:
    assert codec.decode_member_message(codec.encode_member_message(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        RosterView(
            members=(Member(role="worker", rank=0, address="a:1", info={"x": 1.5}),),
            data_seed=-3,
            incarnation=2**64 - 1,
        ),
        RosterView(members=(), data_seed=0, incarnation=0),
        Gathered("plan", (b"", b"\xff")),
        Gathered("", ()),
        Notice(""),
        Left(role="worker", rank=0, last_step=0),
        Ended(),
        Ended(preempted=True),
        Pong(t_echo=0.0, coordinator_time_ns=0),
        StopAsked(number=2, after=7),
        StopAgreed(number=2, after=2**40),
        Announced(topic="", rank=0, payload=b""),
        Announced(topic="data", rank=3, payload=b"\xff"),
    ],
)
def test_a_coordinator_message_comes_back_equal(message: CoordinatorMessage) -> None:
    assert codec.decode_coordinator_message(codec.encode_coordinator_message(message)) == message


@pytest.mark.parametrize(
    "sent, arrives_as",
    [
        *((kind, kind) for kind in (StartTimeout, PeerLost, StepTimeout, MemberError)),
        *((kind, kind) for kind in (ConfigError, ProtocolError)),
        *((kind, kind) for kind in (PlanError, DriftError, NumericsError)),
        (PoseidonError, MemberError),
    ],
)
def test_an_error_arrives_as_what_it_was(
    sent: type[PoseidonError], arrives_as: type[PoseidonError]
) -> None:
    encoded = codec.encode_coordinator_message(Failure(sent("why")))
    decoded = codec.decode_coordinator_message(encoded)
    assert isinstance(decoded, Failure) and type(decoded.error) is arrives_as
    assert decoded.text == "why"


@pytest.mark.parametrize(
    "number", [99, pb.FAILURE_KIND_NOT_NOW, pb.FAILURE_KIND_START_TIMEOUT], ids=str
)
def test_a_kind_that_is_not_a_members_to_say_is_a_members_failure(number: Any) -> None:
    """Newer members may know more kinds; a member may not send the others away."""
    envelope = pb.MemberMessage(failure=pb.MemberFailure(text="why", kind=number))
    failure = codec.decode_member_message(envelope.SerializeToString())
    assert failure == MemberFailure("why", MemberError)


def altered_join(**fields: Any) -> bytes:
    message: Any = pb.MemberMessage.FromString(codec.encode_member_message(JOIN))
    for name, value in fields.items():
        setattr(message.join, name, value)
    altered: bytes = message.SerializeToString()
    return altered


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff" * 20,
        altered_join(role=0),
        altered_join(role=77),
        altered_join(info=b"[]"),
        altered_join(info=b"\xff{"),
        altered_join(info=b"[" * 100_000),
        pb.MemberMessage(gather=pb.Gather(name="x", timeout_s=float("nan"))).SerializeToString(),
        pb.MemberMessage(gather=pb.Gather(name="x", timeout_s=-1.0)).SerializeToString(),
    ],
)
def test_garbage_from_a_member_is_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_member_message(garbage)


def test_garbage_from_the_coordinator_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        codec.decode_coordinator_message(b"\x01\x02\x03")
