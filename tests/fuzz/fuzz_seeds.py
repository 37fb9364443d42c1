"""Valid messages of every kind, for fuzzers to begin with."""

from __future__ import annotations

import numpy as np

from poseidon_tf.coordinator import codec
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
    Ping,
    Pong,
    RosterView,
    ServerFigures,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.status import MemberStatus, Status
from poseidon_tf.coordinator.status_codec import encode_status
from poseidon_tf.errors import PeerLost, StepTimeout
from poseidon_tf.planner import ClusterSpec, VariableSpec, make_plan
from poseidon_tf.wire import arrays, frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part

_JOIN = Join(role="worker", rank=1, address="a:1", info={"x": 1}, num_workers=2, num_servers=0)
_MEMBER_MESSAGES: list[MemberMessage] = [
    _JOIN,
    Gather(name="plan", payload=b"\x00\xff", timeout_s=1.5),
    MemberFailure("disk full"),
    MemberFailure("worker rank 1 waited 9 s", StepTimeout),
    Goodbye(7),
    Ping(1.5),
    StopOffer(number=1, after=2, timeout_s=0.5),
    Announce("data", b"\x00"),
    Figures(steps=7, step_s=0.5, own_s=0.25, ps_bytes=2**40, waits_for="'fc/kernel'"),
    ServerFigures(sums=7, summing=0.5, last_rank=1, late_s=0.25, waits_for="'fc/kernel'"),
]
COORDINATOR_MESSAGES: list[CoordinatorMessage] = [
    RosterView(
        members=(Member(role="worker", rank=0, address="a:1", info={"x": [1]}),),
        data_seed=5,
        incarnation=6,
    ),
    Gathered("plan", (b"a", b"", b"c")),
    Notice("waiting"),
    Failure(PeerLost("gone")),
    Left(role="worker", rank=1, last_step=3),
    Ended(),
    Pong(t_echo=0.5, coordinator_time_ns=10**18),
    StopAsked(number=1, after=2),
    StopAgreed(number=1, after=2),
    Announced(topic="data", rank=1, payload=b"\x00"),
]
_PARTS = [Part(key=3, step=1, length=8), Part(key=4, step=1, length=3, rows=2, offset=4, total=99)]
_PLAN = make_plan(
    [
        VariableSpec(name="fc/kernel", shape=(64, 32), dtype="float32", rows=4, factors=(64, 32)),
        VariableSpec(name="fc/bias", shape=(32,), dtype="float32", bias_of="fc/kernel"),
    ],
    ClusterSpec(num_workers=2, num_servers=2, co_located=True),
)
_STATUS = Status(
    members=(
        MemberStatus(
            role="worker",
            rank=0,
            address="a:1",
            presence="here",
            figures=Figures(steps=7, step_s=0.5),
            figures_age_s=1.5,
        ),
        MemberStatus(
            role="server",
            rank=0,
            address="",
            presence="expected",
            server_figures=ServerFigures(sums=7, summing=0.5),
        ),
    ),
    running_s=3.5,
    waits=("waiting for server 0",),
    failure="gone",
    restarts=2,
)

SEEDS: dict[str, list[bytes]] = {
    "frame": [
        frames.encode(FrameHeader(parts=_PARTS), [b"12345678", b"abc"]),
        frames.encode(FrameHeader(parts=[Part(key=1, step=2**40, length=9, place=65)])),
        frames.encode(FrameHeader(credit=2**40)),
        frames.refusal("no"),
        frames.goodbye(-1),
    ],
    "member_message": [codec.encode_member_message(each) for each in _MEMBER_MESSAGES],
    "coordinator_message": [
        codec.encode_coordinator_message(each) for each in COORDINATOR_MESSAGES
    ],
    "status": [encode_status(_STATUS)],
    "array_bytes": [arrays.pack([np.ones((2, 3), "f"), np.zeros((), "int64")])],
    "plan": [_PLAN.to_json().encode()],
}
