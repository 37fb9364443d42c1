"""What holds for the coordinator whatever members and strangers say: its decisions, its streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fuzz_choices import Choices
from fuzz_streams import MOST_EVENTS, Server, Stream

from poseidon_tf.coordinator import codec, limits
from poseidon_tf.coordinator.messages import (
    Announce,
    Failure,
    Figures,
    Gather,
    Goodbye,
    Join,
    MemberFailure,
    MemberKey,
    NotNow,
    Ping,
    ServerFigures,
    StopOffer,
)
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.coordinator.status_codec import decode_status, encode_status
from poseidon_tf.errors import (
    ConfigError,
    DriftError,
    MemberError,
    PeerLost,
    PoseidonError,
    ProtocolError,
    StepTimeout,
)

MEMBERS = [MemberKey("worker", 0), MemberKey("worker", 1), MemberKey("server", 0)]


# What the coordinator answers to a newcomer that does not fit, or comes too early; and to all else.
REFUSALS = (ConfigError, NotNow, ProtocolError)


@contextlib.contextmanager
def unchanged_if_decided_against(job: Roster) -> Iterator[None]:
    """What raises has to be a refusal, and must have changed nothing."""
    before = _state(job)
    try:
        yield
    except REFUSALS:
        assert _state(job) == before, f"a refusal changed {before} to {_state(job)}"
        raise


def _state(job: Roster) -> Any:
    gathers = {name: (opened.wait.deadline_s, dict(opened.parts)) for name, opened in job._gathers}
    stop = job._stop.number, dict(job._stop._offers), job._stop.wait is not None
    members = dict(job._members), sorted(job._present), dict(job._last_steps), job._is_preempted
    return members, gathers, stop, job.failure


def new_roster() -> Roster:
    return Roster(
        num_workers=2,
        num_servers=1,
        data_seed=1,
        incarnation=0,
        start_timeout_s=10.0,
        started_s=0.0,
    )


def roster(data: bytes) -> None:
    """The coordinator of two workers and a server. Messages go through the codec."""
    choices, job = Choices(data), new_roster()
    now_s, told = 0.0, set()
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        member = choices.of(MEMBERS)
        event = choices.of((*["message"] * 14, "lost", "tick"))
        before = job.failure
        try:
            with unchanged_if_decided_against(job):
                match event:
                    case "message":
                        actions = _heard(job, member, choices, now_s)
                    case "lost":
                        actions = job.lost(member, "gone")
                    case _:
                        now_s += choices.of((0.0, 1.0, 11.0))
                        actions = job.tick(now_s)
        except REFUSALS:
            continue
        for to, message in actions:
            codec.decode_coordinator_message(codec.encode_coordinator_message(message))
            if isinstance(message, Failure):
                told.add(to)
        # The first failure is the only one, and all who are here hear of it.
        assert before is None or job.failure is before
        assert job.failure is None or job._present <= told | {member}
    assert len(list(job._gathers)) <= 2 * MOST_EVENTS


def _heard(job: Roster, member: MemberKey, choices: Choices, now_s: float) -> Any:
    message = _message(choices, member)
    message = codec.decode_member_message(choices.mutated(codec.encode_member_message(message)))
    match message:
        case Join():
            return job.join(message)
        case Gather():
            return job.gather(member, message, now_s)
        case StopOffer():
            return job.offer_stop(member, message, now_s)
        case Announce():
            return job.announce(member, message)
        case MemberFailure():
            return job.fail(member, message)
        case Goodbye(last_step, preempted):
            return job.goodbye(member, last_step, preempted=preempted)
        case _:
            return []


def _join(member: MemberKey) -> Join:
    return Join(
        role=member.role, rank=member.rank, address="a:1", info={}, num_workers=2, num_servers=1
    )


def _message(choices: Choices, member: MemberKey) -> Any:
    usual = choices.of(("join", "gather", "gather", "stop", "announce"))
    match choices.mostly(usual, "bye", "fail", "ping", "figures", "server_figures"):
        case "join":
            rank = choices.mostly(member.rank, 7, 2**32 - 1)
            return replace(
                _join(member),
                rank=rank,
                address=choices.mostly("a:1", "", "x" * 301),
                info=choices.of(({}, {"a": [[[1]]]})),
                num_workers=choices.mostly(2, 3),
            )
        case "gather":
            return Gather(
                name=choices.mostly(choices.of("ab"), "", "n" * 1025),
                payload=choices.bytes(20),
                timeout_s=choices.mostly(5.0, 1e300, float("nan"), -1.0, float("inf")),
            )
        case "stop":
            return StopOffer(
                number=choices.mostly(1, 2, 0, 2**64 - 1),
                after=choices.of((0, 3, 2**64 - 1)),
                timeout_s=choices.of((5.0, 1e-300)),
            )
        case "announce":
            return Announce(choices.of(("data", "")), choices.bytes(20))
        case "bye":
            return Goodbye(choices.of((-1, 0, 2**63 - 1, -(2**63))), choices.of((False, True)))
        case "fail":
            text = choices.of(("", "disk full", "x" * 20000))
            return MemberFailure(text, choices.of((None, MemberError, StepTimeout, DriftError)))
        case "figures":
            return Figures(
                steps=choices.of((0, 2**64 - 1)),
                step_s=choices.mostly(0.1, float("nan"), -1.0, float("inf")),
                waits_for=choices.mostly("", "x" * 1025),
            )
        case "server_figures":
            return ServerFigures(
                sums=choices.of((0, 2**64 - 1)),
                last_rank=choices.mostly(1, -1, -2, 2**31 - 1),
                late_s=choices.mostly(0.1, float("nan"), -1.0),
                waits_for=choices.mostly("", "x" * 1025),
            )
        case _:
            return Ping(choices.of((0.0, float("nan"))))


def coordinator_service(data: bytes) -> None:
    """The same with the streams that members and strangers open, and all that is sent on them."""
    choices, server = Choices(data), Server()
    now_s = 0.0
    service = CoordinatorService(
        server,  # type: ignore[arg-type]
        new_roster(),
        tick_s=3600.0,  # The target looks at the time itself.
        clock=lambda: now_s,
    )
    try:
        streams = _Attendances(service, server.methods[codec.ATTEND])
        for member in MEMBERS:
            streams.open()
            if choices.mostly(True, False):
                streams.say(-1, codec.encode_member_message(_join(member)))
        for _ in range(MOST_EVENTS):
            if not choices:
                break
            match choices.of((*["message"] * 10, "open", "garbage", "end", "tick")):
                case "open":
                    streams.open()
                case "message":
                    at = choices.byte()
                    member = streams.member(at) or choices.of(MEMBERS)
                    message = codec.encode_member_message(_message(choices, member))
                    streams.say(at, choices.mutated(message))
                case "garbage":
                    streams.say(choices.byte(), choices.bytes(40))
                case "end":
                    streams.end(choices.byte(), choices.of((None, PeerLost("lost"))))
                case "tick":
                    now_s += choices.of((0.0, 1.0, 11.0))
                    with service._changed:
                        service._post(service._roster.tick(now_s))
                    service._deliver()
        streams.check_the_end()
    finally:
        service.close(timeout_s=0.0)


class _Attendances:
    """The streams of a coordinator, each with what was said on it and what came back."""

    def __init__(self, service: CoordinatorService, accept: Any) -> None:
        self._service, self._accept = service, accept
        self._open: list[Any] = []
        decide = service._decide

        def checked(attendance: Any, message: Any) -> Any:
            with unchanged_if_decided_against(service._roster):
                return decide(attendance, message)

        service._decide = checked  # type: ignore[method-assign]

    def open(self) -> None:
        self._open.append(self._accept(Stream({})))

    def member(self, at: int) -> MemberKey | None:
        return self._open[at % len(self._open)].member if self._open else None

    def say(self, at: int, message: bytes) -> None:
        """No message may end in an error here: whoever sent it is told, and nobody else."""
        if not self._open:
            return
        attendance = self._open[at % len(self._open)]
        outgoing = _outgoing(attendance)
        before = _state(self._service._roster), attendance.member
        was_closed, num_before = attendance.stream.is_closed, outgoing.qsize()
        attendance.on_message(message)
        if not _is_message(message):
            assert before == (_state(self._service._roster), attendance.member)
            assert was_closed or outgoing.qsize() > num_before, "a refusal that nobody hears of"
        assert not was_closed or outgoing.qsize() == num_before, "kept for nobody"
        self._check()

    def end(self, at: int, error: PoseidonError | None) -> None:
        if self._open:
            self._open.pop(at % len(self._open)).on_closed(error)
            self._check()

    def _check(self) -> None:
        """Everyone is where they say they are; strangers are given a bounded number of answers."""
        attendances, strangers = self._service._attendances, self._service._strangers
        assert {*attendances.values(), *strangers} == set(self._open)
        assert all(attendance.member == member for member, attendance in attendances.items())
        assert all(attendance.member is None for attendance in strangers)
        assert self._service._roster._present <= set(attendances)
        status = self._service.status()
        told = decode_status(encode_status(status))  # Long texts are cut.
        assert (told.members, told.phase) == (status.members, status.phase)
        here = {(m.role, m.rank) for m in status.members if m.presence == "here"}
        assert here == self._service._roster._present
        for stranger in strangers:
            # The pongs, one refusal, and the end.
            assert _outgoing(stranger).qsize() <= limits.MAX_STRANGER_PINGS + 2
        assert not self._service._outbox

    def check_the_end(self) -> None:
        """Whoever is left hears of a failure."""
        failure = self._service.failure
        for member, attendance in self._service._attendances.items():
            if failure is None or member not in self._service._roster._present:
                continue
            queue, heard = _outgoing(attendance), []
            while queue.qsize():
                message = queue.get()
                heard += [] if message is None else [codec.decode_coordinator_message(message)]
            assert any(
                isinstance(each, Failure) and str(each.error) == limits.cut_text(str(failure))
                for each in heard
            ), f"{member} does not hear of {failure}"


def _outgoing(attendance: Any) -> Any:
    """The queue of what it is still to be told."""
    return attendance.stream.outgoing._queue


def _is_message(data: bytes) -> bool:
    try:
        codec.decode_member_message(data)
    except PoseidonError:
        return False
    return True


TARGETS = {"roster": roster, "coordinator_service": coordinator_service}
