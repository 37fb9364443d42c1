"""What holds for a worker whatever the coordinator, a server or another worker says to it."""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fuzz_choices import Choices
from fuzz_seeds import COORDINATOR_MESSAGES
from fuzz_streams import MOST_EVENTS, unchanged_if_refused

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.client import CoordinatorClient
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
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.presence import Step
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import MemberError, PeerLost, PoseidonError, ProtocolError, StepTimeout
from poseidon_tf.kv.client import OnSum, Piece, _SumReceiver
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.planner import KVPair
from poseidon_tf.session.data_ends import DataEnds
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.expected_sums import ExpectedSums
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.session import Session
from poseidon_tf.session.worker import Worker
from poseidon_tf.trace import Recorder
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part

_QUIET = logging.getLogger("fuzzed")
_QUIET.setLevel(logging.CRITICAL)


def coordinator_client(data: bytes) -> None:
    """A worker of two, with a server, as it hears the coordinator."""
    choices = Choices(data)
    failures: list[PoseidonError | None] = []
    told: list[Any] = []
    job_failure = JobFailure()
    job_failure.on_set.append(lambda: failures.append(job_failure.failure))
    client = CoordinatorClient(
        "a:1",
        role="worker",
        rank=0,
        own_address="b:1",
        info={},
        num_workers=2,
        num_servers=1,
        job_failure=job_failure,
        on_left=lambda rank, last_step: told.append((rank, last_step)),
        on_ended=lambda: told.append("ended"),
        on_announced=lambda *announced: told.append(announced),
        clock=lambda: 100.0,
        logger=_QUIET,
    )
    client._stream = _Said(told)  # type: ignore[assignment]
    try:
        _hear_coordinator(choices, client, failures, told)
    finally:
        client._stream = None
        client.close()


class _Said:
    """A member's stream to the coordinator, without a socket."""

    def __init__(self, said: list[Any]) -> None:
        self._said = said

    def send(self, message: bytes) -> None:
        self._said.append(codec.decode_member_message(message))


def _hear_coordinator(
    choices: Choices,
    client: CoordinatorClient,
    failures: list[PoseidonError | None],
    told: list[Any],
) -> None:
    presence, job_failure = client._presence, client.job_failure
    presence.open()

    def state() -> Any:
        kept = {k: v for k, v in vars(presence).items() if k != "stopping"}
        kept["open_gathers"] = dict(presence.open_gathers)
        return kept, dict(vars(presence.stopping)), job_failure.cause

    for _ in range(MOST_EVENTS):
        if not choices:
            break
        before, num_told = job_failure.failure, len(told)
        match choices.of((*["hear"] * 10, "gather", "joined", "run", "leave", "closed", "anew")):
            case "hear":
                message = codec.encode_coordinator_message(_coordinator_message(choices))
                try:
                    with unchanged_if_refused(lambda: (state(), len(failures), len(told))):
                        client.on_message(choices.mutated(message))
                except ProtocolError as failure:  # As the transport does.
                    client.on_closed(failure)
            case "gather" if len(presence.open_gathers) < 3:
                presence.open_gathers[choices.of("abc")] = None
            case "joined" if presence.view is not None:
                presence.take(Step.JOIN)
            case "run":
                event = choices.of((Stopping.begin, Stopping.end, Stopping.pause, Stopping.want))
                event(presence.stopping)
            case "leave":
                presence.take(Step.LEAVE)
            case "closed":
                client.on_closed(choices.of((None, PeerLost("lost"), ProtocolError("no"))))
            case "anew":
                presence.open()
        # The first failure is kept, and told once.
        assert before is None or job_failure.failure is before
        assert len(failures) <= 1 and (not failures or failures[0] is job_failure.failure)
        assert all(parts is None or len(parts) == 2 for parts in presence.open_gathers.values())
        assert len(presence.open_gathers) <= 3
        if presence.view is not None:
            assert [len(presence.view.workers), len(presence.view.servers)] == [2, 1]
        for each in told[num_told:]:
            if isinstance(each, StopOffer):
                assert each.after == presence.stopping._begun
            elif each != "ended":
                assert each[0] in (0, 1)


def _coordinator_message(choices: Choices) -> CoordinatorMessage:
    match choices.of(("any", "roster", "gathered", "stop", "failure", "left", "said", "ended")):
        case "roster":
            keys: list[tuple[Role, int]] = [("worker", 0), ("worker", 1), ("server", 0)]
            if choices.byte() % 4 == 0:
                keys[choices.byte() % 3 :] = [choices.of((*keys, ("worker", 2), ("server", 1)))]
            members = [Member(role=role, rank=rank, address="a", info={}) for role, rank in keys]
            return RosterView(members=tuple(members), data_seed=1, incarnation=0)
        case "gathered":
            parts = choices.mostly((b"x", b""), (), (b"",), (b"", b"", b""))
            return Gathered(choices.of("abcd"), parts)
        case "stop":
            after = choices.mostly(choices.byte() % 4, 2**64 - 1)
            number = choices.mostly(1, 0, 2, 2**64 - 1)
            asked = choices.of((True, False))
            return (StopAsked if asked else StopAgreed)(number=number, after=after)
        case "failure":
            return Failure(choices.of((NotNow("later"), MemberError("gone"), PeerLost(""))))
        case "left":
            usual: tuple[Role, int] = ("worker", 1)
            role, rank = choices.mostly(usual, ("server", 0), ("worker", 2**32 - 1))
            return Left(role=role, rank=rank, last_step=choices.of((0, -1, 2**63 - 1)))
        case "said":
            rank = choices.mostly(1, 0, 2, 2**32 - 1)
            return Announced(topic=choices.of(("data", "")), rank=rank, payload=choices.bytes(9))
        case "ended":
            return Ended(choices.of((False, True)))
        case _:
            return choices.of(COORDINATOR_MESSAGES)


_ENDS = struct.Struct("<qqq?")


def data_ends(data: bytes) -> None:
    """Rank 0 of three workers; what the others announce of their data, in any order."""
    choices = Choices(data)
    announced: list[bytes] = []
    ends = DataEnds(
        num_workers=3,
        rank=0,
        announce=announced.append,
        job_failure=JobFailure(),
        names=WorkerNames(),
        timeout_s=0.0,  # Who has to wait for the others gives up at once.
    )

    def state() -> Any:
        counts = {
            key: (dict(ends_of.counts), ends_of.announced)
            for key, ends_of in ends._iterators.items()
        }
        return counts, set(ends._dropped), set(ends._left), len(announced)

    most: dict[Any, Any] = {}  # By iterator and rank: the most that has been said.
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        dataset, iterator = choices.byte() % 2, choices.byte() % 3
        match choices.of((*["heard"] * 6, "own", "own", "ran out", "drop", "left")):
            case "heard":
                rank = choices.mostly(choices.of((1, 2)), 0, 3, -1, 2**32 - 1)
                number = choices.mostly(iterator, -1, 64, 2**63 - 1)
                elements = choices.mostly(choices.byte() % 5, -1, 2**63 - 1)
                is_end = choices.of((False, True))
                message = choices.mutated(_ENDS.pack(dataset, number, elements, is_end))
                with contextlib.suppress(ProtocolError), unchanged_if_refused(state):
                    ends.heard(rank, message)
                    assert rank in (1, 2) and len(message) == _ENDS.size
            case "own":
                ends.has_step(dataset, iterator, choices.byte() % 5, True)
            case "ran out":
                index = choices.byte() % 5
                with contextlib.suppress(StepTimeout):
                    has_step = ends.has_step(dataset, iterator, index, False)
                    counts = ends._iterators[dataset, iterator].counts.values()
                    assert has_step == any(count.elements > index for count in counts)
            case "drop":
                ends.drop(dataset, iterator)
            case "left":
                ends.left(choices.of((1, 2)))
        # Older iterators are forgotten with what was said of them.
        most = {(key, rank): most[key, rank] for key, rank in most if key in ends._iterators}
        for key, ends_of in ends._iterators.items():
            assert set(ends_of.counts) <= {0, 1, 2}
            for rank, count in ends_of.counts.items():
                assert count >= most.get((key, rank), count), "what was said is forgotten"
                most[key, rank] = count
    assert len(ends._iterators) <= MOST_EVENTS
    for message in announced:
        assert min(_ENDS.unpack(message)[:3]) >= 0


_ANY_SIZE = 2  # The number of its key.


class _Link:
    """A worker's side of its streams to one server, of which there is one, without a socket."""

    address, memory = "s:1", None

    def __init__(self) -> None:
        self.queue = FrameQueue(window_bytes=64, credit_step=8)
        self._num_keys = 0

    def register(self, specs: Sequence[KeySpec], *, timeout_s: float) -> list[int]:
        begin, self._num_keys = self._num_keys, self._num_keys + len(specs)
        return [*range(begin, self._num_keys)]

    def push(self, pieces: Sequence[Piece], *, step: int, priority: int) -> None:
        self.queue.put_parts(
            [
                (Part(key=piece.key, step=step, length=len(piece.payload)), piece.payload)
                for piece in pieces
            ],
            priority=priority,
        )


def server_link(data: bytes) -> None:
    """A worker with two values at one server: one cut into two pairs, one of any size."""
    choices, link = Choices(data), _Link()
    session = Session(
        rank=0,
        names=WorkerNames(),
        deadlines=Deadlines(),
        recorder=Recorder("fuzzed", directory=None),
        job_failure=JobFailure(),
    )
    try:
        _hear_sums(choices, link, session)
    finally:
        session.close()


def _hear_sums(choices: Choices, link: _Link, session: Session) -> None:
    worker = Worker(
        rank=0,
        num_workers=2,
        session=session,
        coordinator=None,  # type: ignore[arg-type]
        factors=None,  # type: ignore[arg-type]
        names=WorkerNames(),
        own_server=None,
    )
    expected = ExpectedSums("server 0")
    worker._links, worker._expected = [link], [expected]  # type: ignore[list-item]
    delivered: list[tuple[str, int, int]] = []

    def deliver_as(name: str) -> Any:
        return lambda step, results, error: delivered.append((name, step, len(results[0])))

    fixed = worker.open_sum(
        "a",
        "float32",
        [KVPair(0, 0, 0, 4, 0), KVPair(0, 1, 4, 2, 0)],
        num_elements=6,
        purpose="ps",
        priority=3,
        deliver=deliver_as("a"),
    )
    free = worker.open_sum(
        "b", "int64", None, num_elements=0, purpose="all_reduce", deliver=deliver_as("b")
    )
    syncers: list[Any] = [fixed.syncer, free.syncer]

    def state() -> Any:
        arriving = [
            {step: set(missing) for step, (_, missing) in syncer._arriving.items()}
            for syncer in syncers
        ]
        received = [syncer.payload_bytes() for syncer in syncers]
        return arriving, received, link.queue._in_flight_bytes, list(delivered), session.failure

    receiver = _SumReceiver(
        _checked(link.queue, state),
        _checked_sum(expected.receive, state),
        lambda error: None,
    )
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.of((*["sum"] * 6, "push", "push", "sent", "credit", "refusal", "garbage")):
            case "push":
                fixed.push([np.ones(6, "float32")])
                free.push([np.ones(choices.byte() % 3, "int64")])
            case "sent":
                if link.queue.is_ready():
                    next(iter(link.queue))
            case "sum":
                _hear(receiver, _sum(choices, fixed.next_step))
            case "credit":
                credit = choices.mostly(choices.byte(), link.queue._in_flight_bytes, 2**63)
                _hear(receiver, frames.encode(FrameHeader(credit=credit)))
            case "refusal":
                _hear(receiver, frames.refusal("no"))
            case "garbage":
                _hear(receiver, choices.bytes(40))
    # Every step's result comes once and is whole.
    of_fixed = [step for name, step, _ in delivered if name == "a"]
    assert len(of_fixed) == len(set(of_fixed)) and set(of_fixed) <= set(range(fixed.next_step))
    assert all(size == 6 for name, _, size in delivered if name == "a")
    assert link.queue._in_flight_bytes >= 0


def _checked(queue: FrameQueue, state: Callable[[], Any]) -> FrameQueue:
    take_credit = queue.take_credit

    def checked(num_bytes: int) -> None:
        with unchanged_if_refused(state):
            take_credit(num_bytes)

    queue.take_credit = checked  # type: ignore[method-assign]
    return queue


def _checked_sum(on_sum: OnSum, state: Callable[[], Any]) -> OnSum:
    taken: set[tuple[int, int]] = set()

    def checked(key: int, step: int, payload: memoryview | None) -> None:
        with unchanged_if_refused(state):
            on_sum(key, step, payload)
            # Those of the value of any size are the session's to tell apart.
            assert key == _ANY_SIZE or (key, step) not in taken, "one sum was taken twice"
            taken.add((key, step))

    return checked


def _hear(receiver: _SumReceiver, message: bytes) -> None:
    try:
        receiver.on_message(message)
    except ProtocolError:
        pass
    except MemberError:  # What a server refuses, in its own words.
        assert frames.decode(message)[0].refusal


def _sum(choices: Choices, next_step: int) -> bytes:
    key = choices.mostly(choices.of((0, 1, 2)), 3, 2**32 - 1)
    payload = bytes(choices.mostly({0: 16, 1: 8}.get(key, 8), 0, 4, 17))
    part = Part(
        key=key,
        step=choices.mostly(max(next_step - 1, 0), 0, next_step, 2**64 - 1),
        length=choices.mostly(len(payload), 2**32 - 1),
        place=choices.mostly(0, 1, 2**64 - 1),
    )
    return choices.mutated(
        frames.encode(FrameHeader(parts=[part]), [] if part.place else [payload])
    )


TARGETS = {
    "coordinator_client": coordinator_client,
    "data_ends": data_ends,
    "server_link": server_link,
}
