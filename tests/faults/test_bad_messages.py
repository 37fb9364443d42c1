"""A server that is told nonsense says so, changes nothing, and goes on serving."""

import queue
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.service import (
    EXCHANGE,
    INSPECT,
    MAX_TABLE_BYTES,
    MAX_TABLE_KEYS,
    REGISTER,
    STREAMS_PER_SERVER,
    KVService,
)
from poseidon_tf.kv.store import MAX_FIRST_STEP, MAX_PRIORITY, KeySpec
from poseidon_tf.transport import admission
from poseidon_tf.transport.base import MAX_MESSAGE_BYTES
from poseidon_tf.transport.security import Security
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, InspectReply, Key, KeyTable, Part
from tests.faults.faults_streams import WAIT_S, Endpoint

pytestmark = pytest.mark.connections

SPECS = [KeySpec(name, "float32", 4) for name in "wbv"]  # Numbers 0, 1 and 2.


class Store(Endpoint):
    """A server for two workers that knows `SPECS`."""

    def __init__(self, *, spare_streams: int = 1) -> None:
        super().__init__(max_streams=KVService.streams_needed(2) + spare_streams)
        KVService(self.server, num_workers=2)
        self._links: list[ServerLink] = []
        self._sums: list[queue.Queue[Any]] = []

    def __exit__(self, *exception: object) -> None:
        for link in self._links:
            link.leave(0)
        for link in self._links:
            link.close(timeout_s=WAIT_S)
        super().__exit__(*exception)

    def register(self, specs: Sequence[KeySpec]) -> None:
        keys = [
            Key(
                name=spec.name,
                dtype=spec.dtype,
                num_elements=spec.num_elements,
                priority=spec.priority,
                first_step=spec.first_step,
            )
            for spec in specs
        ]
        table = KeyTable(rank=0, keys=keys).SerializeToString()
        self.channel().call(REGISTER, table, timeout_s=WAIT_S)

    def state(self) -> tuple[list[Any], int]:
        reply = InspectReply.FromString(self.channel().call(INSPECT, b"", timeout_s=WAIT_S))
        return [(key.name, *key.contributions) for key in reply.keys], reply.held_bytes

    def connect(self, rank: int) -> None:
        sums: queue.Queue[Any] = queue.Queue()
        link = ServerLink(
            self.server.address,
            rank=rank,
            on_sum=lambda key, step, view: sums.put((key, step, bytes(view or b""))),
            on_lost=lambda error: sums.put(error),
        )
        self._links.append(link)
        self._sums.append(sums)
        assert link.register(SPECS, timeout_s=WAIT_S) == [0, 1, 2]

    def push(self, rank: int, key: int, step: int, value: float) -> None:
        self._links[rank].push([Piece(key, memoryview(payload(value)))], step=step)

    def expect(self, key: int, step: int, value: float) -> None:
        """Both workers get this sum next."""
        for sums in self._sums:
            assert sums.get(timeout=WAIT_S) == (key, step, payload(value))

    def exchange(self, step: int, *, keys: Sequence[int] = (0, 1, 2)) -> None:
        """Sums of these keys; with an even and an odd one, over all four streams."""
        for key in keys:
            for rank in range(2):
                self.push(rank, key, step, 10 * key + rank)
            self.expect(key, step, 20 * key + 1)


def payload(value: float, elements: int = 4) -> bytes:
    return np.full(elements, value, "float32").tobytes()


def push(key: int = 0, step: int = 1, data: bytes | None = None, **changes: int) -> bytes:
    data = payload(7.0) if data is None else data
    fields: dict[str, Any] = {"key": key, "step": step, "length": len(data)}
    part = Part(**fields | changes)
    return frames.encode(FrameHeader(parts=[part]), [data])


BAD_PUSHES = {
    "an unknown key": (push(key=8), "key number 8, which was never announced"),
    "a key of the other stream": (
        push(key=1, step=0, data=bytes(2**17)),
        "131072 bytes of key number 1 on stream 0",
    ),
    "too few bytes": (push(data=payload(7.0, 3)), "12 bytes of 'w' for step 1; 16 bytes"),
    "too many bytes": (push(data=payload(7.0, 5)), "20 bytes of 'w' for step 1; 16 bytes"),
    "no bytes": (push(data=b""), "0 bytes of 'w' for step 1; 16 bytes"),
    "a step too far": (push(step=5), "'w' for step 5; its next step is 1"),
    "a step again": (push(step=0), "'w' for step 0 twice"),
    "garbage": (b"\xff\xfe\x00garbage", "not a frame"),
    "a header of garbage": (b"\x0a\x04\xff\xff\xff\xff", "not a frame"),
    "nothing": (b"", "not a frame"),
    "a frame cut short": (push()[:-1], "not a frame"),
    "a part longer than its bytes": (push(length=17), "do not add up"),
}


@pytest.mark.parametrize("message, reason", BAD_PUSHES.values(), ids=BAD_PUSHES)
def test_a_bad_push_is_refused_and_leaves_the_sum_as_it_was(message: bytes, reason: str) -> None:
    """The sender hears why; with fresh streams the same sum and the next one come out right."""
    with Store() as store:
        store.register(SPECS)
        stream, heard = store.open(EXCHANGE, rank=0, stream=0)
        stream.send(push(step=0, data=payload(3.0)))
        header, _ = frames.decode(heard.messages.get(timeout=WAIT_S))
        assert header.credit == 16  # Rank 0's share of step 0 has been taken.
        before = store.state()
        assert before == ([("w", 1, 0), ("b", 0, 0), ("v", 0, 0)], 16)
        stream.send(message)
        error = heard.error()
        assert isinstance(error, ProtocolError) and reason in str(error)
        assert store.state() == before
        store.connect(0)
        store.connect(1)
        store.exchange(0, keys=(1, 2))  # From here on all streams are open at both ends.
        store.push(0, 0, 1, 5.0)
        store.push(1, 0, 0, 4.0)
        store.push(1, 0, 1, 6.0)
        store.expect(0, 0, 7.0)
        store.expect(0, 1, 11.0)


def test_parts_before_a_bad_one_count_and_those_after_it_do_not() -> None:
    """One frame with a good, a bad and a good part: what was taken is known exactly."""
    with Store() as store:
        store.register(SPECS)
        parts = [Part(key=key, step=step, length=16) for key, step in ((0, 0), (0, 0), (2, 0))]
        message = frames.encode(FrameHeader(parts=parts), [payload(1.0)] * 3)
        assert "twice" in str(store.refused(EXCHANGE, message, rank=0, stream=0))
        assert store.state() == ([("w", 1, 0), ("b", 0, 0), ("v", 0, 0)], 16)


BAD_STREAMS = {
    "no rank": ({"stream": 0}, "without rank and stream number"),
    "a rank that is no number": ({"rank": "one", "stream": 0}, "without rank and stream number"),
    "a rank too high": ({"rank": 2, "stream": 0}, "stream 0 of rank 2"),
    "a rank below 0": ({"rank": -1, "stream": 0}, "stream 0 of rank -1"),
    "a stream number too high": ({"rank": 0, "stream": 2}, "stream 2 of rank 0"),
    "one that is open": ({"rank": 0, "stream": 1}, "stream 1 of rank 0 is open already"),
    "a credit step that is no number": (
        {"rank": 0, "stream": 0, "credit_step": "-1"},
        "credit_step is '-1', not a number",
    ),
    "a credit step without end": (
        {"rank": 0, "stream": 0, "credit_step": "9" * 5000},
        "credit_step is '99999999999999999999', not a number",
    ),
}


@pytest.mark.parametrize("metadata, reason", BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_stream_of_nobody_is_refused_and_the_others_go_on(
    metadata: dict[str, object], reason: str
) -> None:
    """Who may not speak hears why; the streams that are open notice nothing."""
    with Store() as store:
        store.connect(0)
        store.connect(1)
        store.exchange(0)
        before = store.state()
        error = store.refused(EXCHANGE, push(key=1), **metadata)
        assert isinstance(error, ProtocolError) and reason in str(error)
        assert store.state() == before
        store.exchange(1)


def test_a_stream_too_many_is_refused_instead_of_waiting_for_ever() -> None:
    """The server says how many streams the cluster needs; the others go on."""
    with Store(spare_streams=0) as store:
        store.connect(0)
        store.connect(1)
        store.exchange(0)
        error = store.refused(EXCHANGE, rank=0, stream=0)
        assert isinstance(error, ProtocolError)
        assert f"a stream too many: this cluster needs {2 * STREAMS_PER_SERVER} here" in str(error)
        store.exchange(1)


def test_a_message_that_is_too_long_is_refused_by_both_sides() -> None:
    """Our sender refuses it itself; another sender is refused by the server, and harms nobody."""
    too_long = bytes(MAX_MESSAGE_BYTES + 1)
    with Store() as store:
        error = store.refused(EXCHANGE, too_long, rank=0, stream=0)
        assert isinstance(error, ProtocolError) and str(MAX_MESSAGE_BYTES) in str(error)
    with Store(spare_streams=3) as store:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(store.server.address, options=options) as channel:
            metadata = [("rank", "0"), ("stream", "0"), ("poseidon-stream", "7")]
            metadata += admission.shown(Security())
            answers = channel.stream_stream(EXCHANGE)(iter([too_long]), metadata=metadata)
            with pytest.raises(grpc.RpcError) as raised:
                list(answers)  # The server greets before it reads.
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert store.state() == ([], 0)


BAD_TABLES = {
    "another size": ([KeySpec("w", "float32", 5)], "'w'"),
    "another dtype": ([KeySpec("new", "int32", 1), KeySpec("w", "float64", 4)], "'w'"),
    "another priority": (
        [KeySpec("w", "float32", 4, 2)],
        "'w'.* with priority 2, before .*float32$",
    ),
    "another first step": (
        [KeySpec("w", "float32", 4, 0, 3)],
        "'w'.* from step 3 on, before .*32$",
    ),
    "a first step too large": (
        [KeySpec("p", "float32", 4, 0, MAX_FIRST_STEP + 1)],
        "for its first step; from 0 to",
    ),
    "a priority too large": ([KeySpec("p", "float32", 4, MAX_PRIORITY + 1)], "from 0 to"),
    "two sizes at once": ([KeySpec("new", "int32", 1), KeySpec("new", "int32", 2)], "'new'"),
    "a dtype without a sum": ([KeySpec("s", "string", 4)], "dtype 'string' cannot be summed"),
    "a key too large": ([KeySpec("huge", "float32", 2**40)], "larger than"),
    "a name too long": (
        [KeySpec("n" * 1025, "float32", 4)],
        "a key whose name has 1025 characters",
    ),
    "too many keys": (
        [KeySpec(str(number), "float32", 4) for number in range(MAX_TABLE_KEYS + 1)],
        f"a table of {MAX_TABLE_KEYS + 1} keys",
    ),
    "a table too long": (
        [KeySpec("n" * (MAX_TABLE_BYTES + 1), "float32", 4)],
        f"a key table of .* bytes, more than {MAX_TABLE_BYTES}",
    ),
    "a dtype whose name is a novel": (
        [KeySpec("s", "x" * 100_000, 4)],
        "dtype 'x{40}' cannot be summed",
    ),
}


@pytest.mark.parametrize("specs, reason", BAD_TABLES.values(), ids=BAD_TABLES)
def test_keys_that_do_not_fit_are_refused_as_a_whole(specs: list[KeySpec], reason: str) -> None:
    """None of the table's keys is added, and the keys that are known go on."""
    with Store() as store:
        store.connect(0)
        store.connect(1)
        store.exchange(0)
        before = store.state()
        with pytest.raises(ProtocolError, match=reason):
            store.register(specs)
        assert store.state() == before
        store.exchange(1)


def test_a_table_that_cannot_be_read_is_refused() -> None:
    """Garbage instead of keys is the caller's error, and registers nothing."""
    with Store() as store:
        with pytest.raises(ProtocolError, match="a key table that cannot be read"):
            store.channel().call(REGISTER, b"\xff garbage", timeout_s=WAIT_S)
        assert store.state() == ([], 0)


def test_a_worker_with_more_keys_than_a_table_holds_announces_them_in_several() -> None:
    """Numbers come back in the order of the keys."""
    with Store() as store:
        store.connect(0)
        specs = [KeySpec(f"k{number}", "int32", 1) for number in range(2 * MAX_TABLE_KEYS + 3)]
        numbers = store._links[0].register(specs, timeout_s=WAIT_S)
        assert numbers == list(range(3, 3 + len(specs)))


def test_a_reason_longer_than_gRPC_carries_arrives_cut() -> None:
    """Its beginning says what is wrong; the rest of it would have made another error of it."""
    with Store() as store:
        store.register([KeySpec("n" * 1000, "float32", 4)])
        with pytest.raises(ProtocolError, match="key 'nnn.* \\.\\.\\.$") as raised:
            store.register([KeySpec("n" * 1000, "float32", 5)])
        assert len(str(raised.value)) < 600
