"""Coordinator messages as bytes: the only file here that knows the generated stubs.

Rule 1: whatever bytes arrive, `decode_*` returns a whole message or raises ProtocolError.
Rule 2: encode and decode are inverse to each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from poseidon_tf.coordinator import limits
from poseidon_tf.coordinator.messages import (
    Announce,
    Announced,
    CoordinatorMessage,
    Ended,
    Failure,
    Figures,
    Gather,
    Gathered,
    Goodbye,
    Join,
    Left,
    Member,
    MemberFailure,
    MemberMessage,
    Notice,
    NotNow,
    Ping,
    Pong,
    Role,
    RosterView,
    ServerFigures,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.status_codec import (
    decoded_figures,
    decoded_server_figures,
    encoded_figures,
    encoded_server_figures,
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

# A stream of MemberMessage one way, of CoordinatorMessage the other.
ATTEND = "/poseidon_tf.Coordinator/Attend"
# A call: a StatusRequest, and a StatusReply.
STATUS = "/poseidon_tf.Coordinator/Status"

_ROLES: dict[pb.Role, Role] = {pb.ROLE_WORKER: "worker", pb.ROLE_SERVER: "server"}
_ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}
# Most special first: an error goes out as the first of these that it is.
_KINDS: dict[pb.FailureKind, type[PoseidonError]] = {
    pb.FAILURE_KIND_START_TIMEOUT: StartTimeout,
    pb.FAILURE_KIND_PEER_LOST: PeerLost,
    pb.FAILURE_KIND_STEP_TIMEOUT: StepTimeout,
    pb.FAILURE_KIND_MEMBER_ERROR: MemberError,
    pb.FAILURE_KIND_CONFIG_ERROR: ConfigError,
    pb.FAILURE_KIND_PROTOCOL_ERROR: ProtocolError,
    pb.FAILURE_KIND_NOT_NOW: NotNow,
    pb.FAILURE_KIND_PLAN_ERROR: PlanError,
    pb.FAILURE_KIND_DRIFT_ERROR: DriftError,
    pb.FAILURE_KIND_NUMERICS_ERROR: NumericsError,
}
# What only the coordinator may say, and what a newer member may know: to all, a member failed.
_NOT_A_MEMBERS = (pb.FAILURE_KIND_NOT_NOW, pb.FAILURE_KIND_START_TIMEOUT)


def encode_member_message(message: MemberMessage) -> bytes:
    """The bytes of a message from a member to the coordinator."""
    envelope = pb.MemberMessage()
    match message:
        case Join():
            envelope.join.CopyFrom(
                pb.Join(
                    role=_ROLE_NUMBERS[message.role],
                    rank=message.rank,
                    address=message.address,
                    info=_json_bytes(message.info),
                    num_workers=message.num_workers,
                    num_servers=message.num_servers,
                )
            )
        case Gather():
            envelope.gather.name = message.name
            envelope.gather.payload = message.payload
            envelope.gather.timeout_s = message.timeout_s
        case MemberFailure(text, kind):
            envelope.failure.text = limits.cut_text(text)
            if kind is not None:
                envelope.failure.kind = _number_of(kind)
        case Goodbye(last_step, preempted):
            envelope.goodbye.last_step = last_step
            envelope.goodbye.preempted = preempted
        case Ping(t):
            envelope.ping.t = t
        case StopOffer():
            envelope.stop_offer.number = message.number
            envelope.stop_offer.after = message.after
            envelope.stop_offer.timeout_s = message.timeout_s
        case Announce(topic, payload):
            envelope.announce.topic = topic
            envelope.announce.payload = payload
        case Figures():
            envelope.figures.CopyFrom(encoded_figures(message))
        case ServerFigures():
            envelope.server_figures.CopyFrom(encoded_server_figures(message))
    return bytes(envelope.SerializeToString())


def decode_member_message(message_bytes: bytes) -> MemberMessage:
    """The message from a member that `message_bytes` hold, or ProtocolError."""
    message = _member_message(_parse(pb.MemberMessage(), message_bytes))
    limits.check(message)
    return message


def _member_message(body: Any) -> MemberMessage:
    match body:
        case pb.Join():
            return Join(
                role=_role(body.role),
                rank=body.rank,
                address=body.address,
                info=_json_object(body.info),
                num_workers=body.num_workers,
                num_servers=body.num_servers,
            )
        case pb.Gather():
            _check_timeout(f"gather {body.name!r}", body.timeout_s)
            return Gather(name=body.name, payload=body.payload, timeout_s=body.timeout_s)
        case pb.MemberFailure():
            return MemberFailure(body.text, _member_failure_kind(body.kind))
        case pb.Goodbye():
            return Goodbye(body.last_step, body.preempted)
        case pb.StopOffer():
            _check_timeout(f"stop {body.number}", body.timeout_s)
            return StopOffer(number=body.number, after=body.after, timeout_s=body.timeout_s)
        case pb.Announce():
            return Announce(body.topic, body.payload)
        case pb.Figures():
            return decoded_figures(body)
        case pb.ServerFigures():
            return decoded_server_figures(body)
        case _:
            return Ping(body.t)


def encode_coordinator_message(message: CoordinatorMessage) -> bytes:
    """The bytes of a message from the coordinator to a member."""
    envelope = pb.CoordinatorMessage()
    match message:
        case RosterView():
            envelope.roster.data_seed = message.data_seed
            envelope.roster.incarnation = message.incarnation
            for member in message.members:
                envelope.roster.members.add(
                    role=_ROLE_NUMBERS[member.role],
                    rank=member.rank,
                    address=member.address,
                    info=_json_bytes(member.info),
                )
        case Gathered(name, payloads):
            envelope.gathered.name = name
            envelope.gathered.payloads.extend(payloads)
        case Notice(text):
            envelope.notice.text = text
        case Failure(error):
            envelope.failure.kind = _number_of(type(error))
            envelope.failure.text = limits.cut_text(str(error))
        case Left():
            envelope.left.role = _ROLE_NUMBERS[message.role]
            envelope.left.rank = message.rank
            envelope.left.last_step = message.last_step
        case Ended(preempted):
            envelope.ended.SetInParent()
            envelope.ended.preempted = preempted
        case Pong():
            envelope.pong.t_echo = message.t_echo
            envelope.pong.coordinator_time_ns = message.coordinator_time_ns
        case StopAsked():
            envelope.stop_asked.number = message.number
            envelope.stop_asked.after = message.after
        case StopAgreed():
            envelope.stop_agreed.number = message.number
            envelope.stop_agreed.after = message.after
        case Announced():
            envelope.announced.topic = message.topic
            envelope.announced.rank = message.rank
            envelope.announced.payload = message.payload
    return bytes(envelope.SerializeToString())


def decode_coordinator_message(message_bytes: bytes) -> CoordinatorMessage:
    """The message from the coordinator that `message_bytes` hold, or ProtocolError."""
    envelope = pb.CoordinatorMessage()
    body = _parse(envelope, message_bytes)
    match body:
        case pb.Roster():
            members = tuple(
                Member(
                    role=_role(member.role),
                    rank=member.rank,
                    address=member.address,
                    info=_json_object(member.info),
                )
                for member in body.members
            )
            return RosterView(
                members=members, data_seed=body.data_seed, incarnation=body.incarnation
            )
        case pb.Gathered():
            return Gathered(body.name, tuple(body.payloads))
        case pb.Notice():
            return Notice(body.text)
        case pb.Failure():
            return Failure(_KINDS.get(body.kind, MemberError)(body.text))
        case pb.Left():
            return Left(role=_role(body.role), rank=body.rank, last_step=body.last_step)
        case pb.Ended():
            return Ended(body.preempted)
        case pb.StopAsked():
            return StopAsked(number=body.number, after=body.after)
        case pb.StopAgreed():
            return StopAgreed(number=body.number, after=body.after)
        case pb.Announced():
            return Announced(topic=body.topic, rank=body.rank, payload=body.payload)
        case _:
            return Pong(t_echo=body.t_echo, coordinator_time_ns=body.coordinator_time_ns)


def _parse(envelope: Any, message_bytes: bytes) -> Any:
    try:
        envelope.ParseFromString(message_bytes)
    except DecodeError as failure:
        raise ProtocolError(f"{len(message_bytes)} bytes that are no message") from failure
    kind = envelope.WhichOneof("kind")
    if kind is None:
        raise ProtocolError(f"a message of {len(message_bytes)} bytes that says nothing")
    return getattr(envelope, kind)


def _check_timeout(what: str, timeout_s: float) -> None:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ProtocolError(f"{what} waits {timeout_s} s: not a time")


def _number_of(error: type[PoseidonError]) -> pb.FailureKind:
    numbers = (number for number, kind in _KINDS.items() if issubclass(error, kind))
    return next(numbers, pb.FAILURE_KIND_MEMBER_ERROR)


def _member_failure_kind(number: pb.FailureKind) -> type[PoseidonError] | None:
    if number == pb.FAILURE_KIND_UNSPECIFIED:
        return None
    return MemberError if number in _NOT_A_MEMBERS else _KINDS.get(number, MemberError)


def _role(number: pb.Role) -> Role:
    if number not in _ROLES:
        raise ProtocolError(f"{number} is not a role")
    return _ROLES[number]


def _json_bytes(info: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(info), sort_keys=True).encode()


def _json_object(info: bytes) -> dict[str, Any]:
    if len(info) > limits.MAX_INFO_BYTES:
        raise ProtocolError(
            f"a member's info of {len(info)} bytes; at most {limits.MAX_INFO_BYTES} are allowed"
        )
    try:
        parsed = json.loads(info or b"{}")
    except (ValueError, RecursionError) as failure:
        raise ProtocolError("a member's info is not JSON") from failure
    if not isinstance(parsed, dict):
        raise ProtocolError(f"a member's info is a {type(parsed).__name__}, not an object")
    return parsed
