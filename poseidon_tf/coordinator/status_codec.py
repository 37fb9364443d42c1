"""A member's figures, and the status of a job, as messages of the wire and back."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import TypeVar

from google.protobuf.message import DecodeError

from poseidon_tf.coordinator import limits
from poseidon_tf.coordinator.messages import Figures, Role, ServerFigures
from poseidon_tf.coordinator.status import MemberStatus, Presence, Status
from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire import coordinator_pb2 as pb

_Figures = TypeVar("_Figures", Figures, ServerFigures)
_ROLES: dict[Role, pb.Role] = {"worker": pb.ROLE_WORKER, "server": pb.ROLE_SERVER}
_PRESENCES: dict[Presence, pb.Presence] = {
    "expected": pb.PRESENCE_EXPECTED,
    "here": pb.PRESENCE_HERE,
    "left": pb.PRESENCE_LEFT,
}


def encoded_figures(figures: Figures) -> pb.Figures:
    """The message that says `figures`."""
    return pb.Figures(**asdict(figures))


def encoded_server_figures(figures: ServerFigures) -> pb.ServerFigures:
    """The message that says `figures`."""
    return pb.ServerFigures(**asdict(figures))


def decoded_figures(body: pb.Figures) -> Figures:
    """What the message says. Raises ProtocolError where a number cannot be."""
    return _decoded(Figures, body)


def decoded_server_figures(body: pb.ServerFigures) -> ServerFigures:
    """What the message says. Raises ProtocolError where a number cannot be."""
    figures = _decoded(ServerFigures, body)
    if figures.last_rank < -1:
        raise ProtocolError(f"a server's last_rank is {figures.last_rank}: not a rank")
    return figures


def _decoded(kind: type[_Figures], body: pb.Figures | pb.ServerFigures) -> _Figures:
    figures = kind(**{field.name: getattr(body, field.name) for field in fields(kind)})
    for name, value in asdict(figures).items():
        if isinstance(value, float) and not 0.0 <= value < math.inf:
            raise ProtocolError(f"a member's {name} is {value!r}: not a time or a rate")
    return figures


def encode_status(status: Status) -> bytes:
    """The bytes of the answer to a question for the status."""
    reply = pb.StatusReply(
        members=[_encoded_member(member) for member in status.members],
        running_s=status.running_s,
        waits=[limits.cut_text(text) for text in status.waits],
        failure=limits.cut_text(status.failure),
        has_ended=status.has_ended,
        restarts=status.restarts,
    )
    return bytes(reply.SerializeToString())


def decode_status(reply_bytes: bytes) -> Status:
    """The status that `reply_bytes` hold, or ProtocolError."""
    try:
        reply = pb.StatusReply.FromString(reply_bytes)
    except DecodeError as failure:
        raise ProtocolError(f"{len(reply_bytes)} bytes that are no status") from failure
    return Status(
        members=tuple(_decoded_member(member) for member in reply.members),
        running_s=_seconds("running_s", reply.running_s),
        waits=tuple(reply.waits),
        failure=reply.failure,
        has_ended=reply.has_ended,
        restarts=reply.restarts,
    )


def _encoded_member(member: MemberStatus) -> pb.MemberStatus:
    return pb.MemberStatus(
        role=_ROLES[member.role],
        rank=member.rank,
        address=member.address,
        presence=_PRESENCES[member.presence],
        figures=None if member.figures is None else encoded_figures(member.figures),
        figures_age_s=member.figures_age_s,
        server_figures=(
            None if member.server_figures is None else encoded_server_figures(member.server_figures)
        ),
    )


def _decoded_member(body: pb.MemberStatus) -> MemberStatus:
    roles = [role for role, number in _ROLES.items() if number == body.role]
    presences = [name for name, number in _PRESENCES.items() if number == body.presence]
    if not roles or not presences:
        raise ProtocolError(f"a member of role {body.role} and presence {body.presence}")
    return MemberStatus(
        role=roles[0],
        rank=body.rank,
        address=body.address,
        presence=presences[0],
        figures=decoded_figures(body.figures) if body.HasField("figures") else None,
        figures_age_s=_seconds("figures_age_s", body.figures_age_s),
        server_figures=(
            decoded_server_figures(body.server_figures) if body.HasField("server_figures") else None
        ),
    )


def _seconds(name: str, value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise ProtocolError(f"{name} of a status is {value!r}: not a time")
    return value
