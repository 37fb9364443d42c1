"""What holds for servers, peers and the coordinator whatever happens to them, without a socket.

A target is given bytes, makes events of them, and looks at the state before and after each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from fuzz_choices import Choices

from poseidon_tf.coordinator import codec
from poseidon_tf.coordinator.messages import (
    Announce,
    Failure,
    Gather,
    Goodbye,
    Join,
    MemberFailure,
    MemberKey,
    Ping,
    StopOffer,
)
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.errors import PoseidonError
from poseidon_tf.kv.service import EXCHANGE, INSPECT, REGISTER, KVService
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.sfb.service import BROADCAST, FactorService
from poseidon_tf.transport.base import MessageQueue, Traffic
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Key, KeyTable, Part

MOST_EVENTS = 64


class Server:
    """What services ask of a server: it keeps their methods for the target to call."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_unary(self, method: str, answer: Callable[[bytes], bytes]) -> None:
        self.methods[method] = answer

    add_stream = add_unary


class Stream:
    """The accepting end of a stream that nobody reads from."""

    peer = "fuzzer"

    def __init__(self, metadata: dict[str, str]) -> None:
        self.metadata = metadata
        self.outgoing: Any = MessageQueue()
        self.traffic = Traffic()

    def send(self, message: bytes) -> None:
        self.outgoing.put(message)

    def close(self) -> None:
        self.outgoing.close()


@contextlib.contextmanager
def unchanged_if_refused(state: Callable[[], Any]) -> Iterator[None]:
    """What raises has to be an error of ours, and must have changed nothing."""
    before = state()
    try:
        yield
    except PoseidonError:
        assert state() == before, f"a refusal changed {before} to {state()}"
        raise


class _Streams:
    """Streams that are open, and what may be said on them."""

    def __init__(
        self, service: Any, accept: Callable[[Any], Any], state: Callable[[], Any]
    ) -> None:
        self._accept, self._state = accept, state
        self.open: list[Any] = []
        take = service.take

        def checked(*args: Any) -> None:
            with unchanged_if_refused(state):
                take(*args)

        service.take = checked

    def accept(self, metadata: dict[str, str]) -> None:
        with contextlib.suppress(PoseidonError), unchanged_if_refused(self._state):
            self.open.append(self._accept(Stream(metadata)))

    def at(self, at: int) -> Any:
        """One that is open, if any is."""
        return self.open[at % len(self.open)] if self.open else None

    def say(self, at: int, message: bytes) -> None:
        """As the transport does: an error of the receiver ends its stream."""
        if not self.open:
            return
        receiver = self.open[at % len(self.open)]
        try:
            receiver.on_message(message)
        except PoseidonError as failure:
            self.end(at, failure)

    def end(self, at: int, error: Exception | None) -> None:
        if self.open:
            self.open.pop(at % len(self.open)).on_closed(error)


def kv_service(data: bytes) -> None:
    """A server of two workers, one of which shares memory with it."""
    choices, server = Choices(data), Server()
    memory = SharedMemory.create()
    assert memory is not None
    memory.grow(4096)
    service = KVService(server, num_workers=2, memory=memory, memory_rank=0)  # type: ignore[arg-type]
    inspect = server.methods[INSPECT]

    def state() -> Any:
        return inspect(b""), service._store.missing(), service._places.copy(), [*service._queues]

    streams = _Streams(service, server.methods[EXCHANGE], state)
    for rank, index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        streams.accept({"rank": str(rank), "stream": str(index)})
    keys = [Key(name="a", dtype="float32", num_elements=4), Key(name="b", dtype="bfloat16")]
    server.methods[REGISTER](KeyTable(rank=0, keys=keys).SerializeToString())
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.mostly("push", "register", "accept", "garbage", "end", "leave"):
            case "register":
                _register(choices, server, state)
            case "accept":
                metadata = {
                    "rank": choices.mostly(choices.of(("0", "1")), "2", "-1", "one", ""),
                    "stream": choices.mostly(choices.of(("0", "1")), "2", "-1", "", "9" * 5000),
                    "credit_step": choices.mostly("8", "", "-1", "x", "9" * 5000),
                }
                streams.accept({name: text for name, text in metadata.items() if text})
            case "push":
                at = choices.byte()
                streams.say(at, _push(choices, service, streams.at(at)))
            case "garbage":
                streams.say(choices.byte(), choices.bytes(40))
            case "end":
                streams.end(choices.byte(), choices.of((None, PoseidonError("lost"))))
            case "leave":
                streams.say(choices.byte(), frames.goodbye(choices.of((-1, 0, 7))))
    counts = [service._store.held_bytes(), len(list(service._store.contributions()))]
    assert counts[0] <= MOST_EVENTS * 2 * 4096 and counts[1] <= 3 * MOST_EVENTS
    memory.close()


def _register(choices: Choices, server: Server, state: Callable[[], Any]) -> None:
    keys = [
        Key(
            name=choices.mostly(choices.of("abcd"), "", "n" * 1024, "n" * 1025),
            dtype=choices.mostly("float32", "bfloat16", "float16", "int64", "string", ""),
            num_elements=choices.mostly(4, 0, 1, 5, 2**24, 2**62, 2**64 - 1),
        )
        for _ in range(choices.of((1, 1, 2, 3, 0)))
    ]
    table = KeyTable(rank=choices.mostly(0, 1, 2, 2**32 - 1), keys=keys)
    with contextlib.suppress(PoseidonError), unchanged_if_refused(state):
        server.methods[REGISTER](choices.mutated(table.SerializeToString()))


def _push(choices: Choices, service: KVService, stream: Any) -> bytes:
    steps = [counts for _, counts in service._store.contributions()]
    parts, payloads = [], []
    for _ in range(choices.mostly(1, 2, 3)):
        key = choices.mostly(stream._index if stream else 0, 1, 2, 3, 2**32 - 1)
        due = steps[key][stream._rank] if stream and key < len(steps) else 0
        payload = bytes(choices.mostly(16, 8, 4, 0, 32, 5))
        place = choices.mostly(0, 1, 17, 4096, 2**26, 2**64 - 1)
        parts.append(
            Part(
                key=key,
                step=choices.mostly(due, due + 1, 0, 2**64 - 1),
                length=choices.mostly(len(payload), 16, 2**32 - 1),
                place=place,
            )
        )
        if not place:
            payloads.append(payload)
    return choices.mutated(frames.encode(FrameHeader(parts=parts), payloads))


def factor_service(data: bytes) -> None:
    """Rank 0 of three workers, with a kernel and a table."""
    choices, server = Choices(data), Server()
    service = FactorService(
        server,  # type: ignore[arg-type]
        num_workers=3,
        rank=0,
        on_complete=lambda complete: None,
        on_lost=lambda rank, error: None,
    )
    specs = {
        0: RowSpec.factors("kernel", M=2, N=3, dtype="float32"),
        1: RowSpec.sparse("table", num_rows=4, width=2, dtype="float32", index_dtype="int32"),
    }
    for key, spec in specs.items():
        service.register(key, spec)
    keys = service._exchange._keys

    def state() -> Any:
        arrived = [
            (
                list(of_key.next_step),
                {rank: (a.rows, a.total, bytes(a.data)) for rank, a in of_key.arriving.items()},
                {step: sorted(present) for step, present in of_key.sets.items()},
            )
            for of_key in keys.values()
        ]
        return arrived, sorted(service._connected), len(service.traffic())

    streams = _Streams(service, server.methods[BROADCAST], state)
    for rank in "12":
        streams.accept({"rank": rank})
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.of((*["piece"] * 8, *["own"] * 6, "accept", "garbage", "end", "leave")):
            case "accept":
                rank = choices.mostly(choices.of("12"), "0", "3", "-1", "x", "", "9" * 5000)
                streams.accept({"rank": rank} if rank else {})
            case "piece":
                at = choices.byte()
                streams.say(at, _piece(choices, specs, keys, streams.at(at)))
            case "own":
                key = choices.of((0, 1))
                others = min(keys[key].next_step[1:])
                if keys[key].next_step[0] <= others:  # A worker cannot be further ahead.
                    rows = choices.of((1, 2, 0))
                    packed = bytes(specs[key].num_bytes(rows))
                    service.broadcast(key, keys[key].next_step[0], rows, packed)
            case "garbage":
                streams.say(choices.byte(), choices.bytes(40))
            case "end":
                streams.end(choices.byte(), choices.of((None, PoseidonError("lost"))))
            case "leave":
                streams.say(choices.byte(), frames.goodbye(choices.of((-1, 0, 7))))
    assert len(service.traffic()) <= 2
    # A step that all have sent is handed over and forgotten; nobody is two ahead of this rank.
    assert all(len(of_key.sets) <= 3 for of_key in keys.values())


def _piece(choices: Choices, specs: dict[int, RowSpec], keys: dict[int, Any], stream: Any) -> bytes:
    key = choices.mostly(choices.of((0, 1)), 2)
    rank = stream._rank if stream else 1
    rows = choices.mostly(2, 1, 0, 2**32 - 1, 2**20)
    total = specs[key % 2].num_bytes(min(rows, 4))
    due = keys[key].next_step[rank] if key in keys else 0
    arriving = keys[key].arriving.get(rank) if key in keys else None
    begin = len(arriving.data) if arriving else 0
    begin = choices.mostly(begin, 0, 4, 2**63)
    piece = bytes([choices.of((0, 0, 0, 1, 255))]) * choices.of(
        (total, max(total - begin, 0), 8, 0)
    )
    part = Part(
        key=key,
        step=choices.mostly(due, due + 1, 2**64 - 1),
        rows=rows,
        offset=begin,
        total=choices.mostly(total, min(specs[key % 2].num_bytes(rows), 2**63), 2**63),
        length=len(piece),
    )
    return choices.mutated(frames.encode(FrameHeader(parts=[part]), [piece]))


MEMBERS = [MemberKey("worker", 0), MemberKey("worker", 1), MemberKey("server", 0)]


def roster(data: bytes) -> None:
    """The coordinator of two workers and a server. Messages go through the codec."""
    choices = Choices(data)
    job = Roster(
        num_workers=2,
        num_servers=1,
        data_seed=1,
        incarnation=0,
        start_timeout_s=10.0,
        started_s=0.0,
    )
    now_s, told = 0.0, set()

    def state() -> Any:
        gathers = {name: dict(opened.parts) for name, opened in job._gathers}
        stop = job._stop.number, dict(job._stop._offers), job._stop.wait is not None
        members = sorted(job._members), sorted(job._present), dict(job._last_steps)
        return members, gathers, stop, job.failure

    for _ in range(MOST_EVENTS):
        if not choices:
            break
        member = choices.of(MEMBERS)
        event = choices.of((*["message"] * 14, "lost", "tick"))
        before = job.failure
        try:
            with unchanged_if_refused(state):
                match event:
                    case "message":
                        actions = _heard(job, member, choices, now_s)
                    case "lost":
                        actions = job.lost(member, "gone")
                    case _:
                        now_s += choices.of((0.0, 1.0, 11.0))
                        actions = job.tick(now_s)
        except PoseidonError:
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
        case MemberFailure(text):
            return job.fail(member, text)
        case Goodbye(last_step):
            return job.goodbye(member, last_step)
        case _:
            return []


def _message(choices: Choices, member: MemberKey) -> Any:
    usual = choices.of(("join", "gather", "gather", "stop", "announce"))
    match choices.mostly(usual, "bye", "fail", "ping"):
        case "join":
            return Join(
                role=member.role,
                rank=choices.mostly(member.rank, 7, 2**32 - 1),
                address=choices.mostly("a:1", "", "x" * 301),
                info=choices.of(({}, {"a": [[[1]]]})),
                num_workers=choices.mostly(2, 3),
                num_servers=1,
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
            return Goodbye(choices.of((-1, 0, 2**63 - 1, -(2**63))))
        case "fail":
            return MemberFailure(choices.of(("", "disk full", "x" * 20000)))
        case _:
            return Ping(choices.of((0.0, float("nan"))))


TARGETS = {"kv_service": kv_service, "factor_service": factor_service, "roster": roster}
