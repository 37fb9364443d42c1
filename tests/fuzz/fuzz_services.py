"""What holds for servers and peers whatever happens to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from fuzz_choices import Choices
from fuzz_streams import (
    IDENTITY,
    MOST_EVENTS,
    OTHER_IDENTITIES,
    Server,
    Streams,
    unchanged_if_refused,
)

from poseidon_tf.errors import PeerLost, ProtocolError
from poseidon_tf.kv.service import EXCHANGE, INSPECT, REGISTER, KVService
from poseidon_tf.sfb.factors import Columns, RowSpec
from poseidon_tf.sfb.service import BROADCAST, FactorService
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, InspectRequest, Key, KeyTable, Part
from poseidon_tf.wire.identities import TO


def kv_service(data: bytes) -> None:
    """A server of two workers, one of which shares memory with it."""
    choices, server = Choices(data), Server()
    memory = SharedMemory.create()
    assert memory is not None
    memory.grow(4096)
    service = KVService(
        server,  # type: ignore[arg-type]
        num_workers=2,
        identity=IDENTITY,
        memory=memory,
        memory_rank=0,
    )
    inspect = server.methods[INSPECT]
    own = InspectRequest(to=IDENTITY).SerializeToString()

    def state() -> Any:
        return inspect(own), service._store.missing(), service._places.copy(), [*service._queues]

    streams = Streams(service, server.methods[EXCHANGE], state)
    for rank, index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        streams.accept({TO: IDENTITY, "rank": str(rank), "stream": str(index)})
    keys = [Key(name="a", dtype="float32", num_elements=4), Key(name="b", dtype="bfloat16")]
    server.methods[REGISTER](KeyTable(rank=0, keys=keys, to=IDENTITY).SerializeToString())
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.mostly("push", "register", "accept", "inspect", "garbage", "end", "leave"):
            case "register":
                _register(choices, server, state)
            case "accept":
                metadata = {
                    TO: choices.mostly(IDENTITY, *OTHER_IDENTITIES),
                    "rank": choices.mostly(choices.of(("0", "1")), "2", "-1", "one", ""),
                    "stream": choices.mostly(choices.of(("0", "1")), "2", "-1", "", "9" * 5000),
                    "credit_step": choices.mostly("8", "", "-1", "x", "9" * 5000),
                }
                streams.accept({name: text for name, text in metadata.items() if text})
            case "inspect":
                meant = choices.of((IDENTITY, *OTHER_IDENTITIES))
                request = choices.mutated(InspectRequest(to=meant).SerializeToString())
                with contextlib.suppress(ProtocolError), unchanged_if_refused(state):
                    inspect(request)
                    assert InspectRequest.FromString(request).to == IDENTITY
            case "push":
                at = choices.byte()
                streams.say(at, _push(choices, service, streams.at(at)))
            case "garbage":
                streams.say(choices.byte(), choices.bytes(40))
            case "end":
                streams.end(choices.byte(), choices.of((None, PeerLost("lost"))))
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
            priority=choices.mostly(0, 1, 2**18, 2**18 + 1, 2**32 - 1),
        )
        for _ in range(choices.of((1, 1, 2, 3, 0)))
    ]
    meant = choices.mostly(IDENTITY, *OTHER_IDENTITIES)
    table = KeyTable(rank=choices.mostly(0, 1, 2, 2**32 - 1), keys=keys, to=meant)
    message = choices.mutated(table.SerializeToString())
    with contextlib.suppress(ProtocolError), unchanged_if_refused(state):
        server.methods[REGISTER](message)
        assert KeyTable.FromString(message).to == IDENTITY


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
        identity=IDENTITY,
        on_complete=lambda complete: None,
        on_lost=lambda rank, error: None,
    )
    specs = {
        0: RowSpec.factors("kernel", M=2, N=3, dtype="float32", whole=Columns(9, "float32")),
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

    streams = Streams(service, server.methods[BROADCAST], state)
    for rank in "12":
        streams.accept({TO: IDENTITY, "rank": rank})
    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.of((*["piece"] * 8, *["own"] * 6, "accept", "garbage", "end", "leave")):
            case "accept":
                rank = choices.mostly(choices.of("12"), "0", "3", "-1", "x", "", "9" * 5000)
                meant = choices.mostly(IDENTITY, *OTHER_IDENTITIES)
                streams.accept({TO: meant} | ({"rank": rank} if rank else {}))
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
                streams.end(choices.byte(), choices.of((None, PeerLost("lost"))))
            case "leave":
                streams.say(choices.byte(), frames.goodbye(choices.of((-1, 0, 7))))
    assert len(service.traffic()) <= 2
    # A step that all have sent is handed over and forgotten; nobody is two ahead of this rank.
    assert all(len(of_key.sets) <= 3 for of_key in keys.values())


def _piece(choices: Choices, specs: dict[int, RowSpec], keys: dict[int, Any], stream: Any) -> bytes:
    key = choices.mostly(choices.of((0, 1)), 2)
    rank = stream._rank if stream else 1
    rows = choices.mostly(2, 1, 0, 2**32 - 1, 2**20)
    total = specs[key % 2].num_bytes(min(rows, 4)) + 36 * (key == 0) * choices.of((0, 0, 1))
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


TARGETS = {"kv_service": kv_service, "factor_service": factor_service}
