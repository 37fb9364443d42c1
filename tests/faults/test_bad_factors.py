"""A worker whose peer sends factors that cannot be: it says so and keeps what it has."""

import queue
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import MemberError, ProtocolError
from poseidon_tf.sfb.factors import RowSpec, pack
from poseidon_tf.sfb.service import BROADCAST, FactorService
from poseidon_tf.transport.streams import Stream
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from tests.faults.faults_streams import WAIT_S, Endpoint

pytestmark = pytest.mark.connections

KEY, ROWS, M, N = 4, 2, 3, 5
TOTAL = ROWS * (M + N) * 4


class Peers(Endpoint):
    """Rank 0 of two workers; the test is rank 1."""

    def __init__(self) -> None:
        super().__init__(max_streams=FactorService.streams_needed(2) + 1)
        self.complete: queue.Queue[Any] = queue.Queue()
        self.lost: queue.Queue[tuple[int, Exception]] = queue.Queue()
        self.service = FactorService(
            self.server,
            num_workers=2,
            rank=0,
            on_complete=self.complete.put,
            on_lost=lambda rank, error: self.lost.put((rank, error)),
        )
        self.service.register(KEY, RowSpec.factors("fc/kernel", M=M, N=N, dtype="float32"))

    def send(self, *messages: bytes) -> Stream:
        """Over a fresh stream of rank 1, which stays open."""
        stream, _ = self.open(BROADCAST, rank=1)
        for message in messages:
            stream.send(message)
        return stream

    def expect(self, step: int) -> None:
        """The set of `step` is complete and right, once rank 0 has given its own factors."""
        self.service.broadcast(KEY, step, ROWS, factors(10.0 + step))
        complete = self.complete.get(timeout=WAIT_S)
        assert (complete.key, complete.step) == (KEY, step)
        assert [(rows, bytes(data)) for rows, data in complete.factors] == [
            (ROWS, factors(10.0 + step)),
            (ROWS, factors(step)),
        ]


def factors(value: float) -> bytes:
    return pack(np.full((ROWS, M), value, "float32"), np.full((ROWS, N), value, "float32"))


def piece(step: int = 1, begin: int = 0, end: int = TOTAL, **changes: int) -> bytes:
    data = factors(step)[begin:end]
    fields: dict[str, Any] = {
        "key": KEY,
        "step": step,
        "rows": ROWS,
        "offset": begin,
        "total": TOTAL,
    }
    part = Part(**fields | {"length": len(data)} | changes)
    return frames.encode(FrameHeader(parts=[part]), [data])


BAD_PIECES = {
    "a unit that is in no plan": ([piece(key=9)], "unit 9, which is not in the plan"),
    "a step again": ([piece(step=0)], "step 0 twice"),
    "a step too far": ([piece(step=2)], "step 2; its next step is 1"),
    "more rows than bytes": ([piece(rows=3)], "96 bytes from 0 on are due"),
    "fewer rows than bytes": ([piece(rows=1)], "32 bytes from 0 on are due"),
    "rows beyond all memory": ([piece(rows=2**32 - 1)], "are due"),
    "a later piece first": ([piece(begin=8)], "64 bytes from 0 on are due"),
    "a piece again": ([piece(end=8), piece(end=8)], "64 bytes from 8 on are due"),
    "a gap": ([piece(end=8), piece(begin=16)], "64 bytes from 8 on are due"),
    "an empty piece": ([piece(end=8), piece(begin=8, end=8)], "64 bytes from 8 on are due"),
    "another size midway": ([piece(end=8), piece(begin=8, rows=1, total=32)], "changed the size"),
    "garbage": ([b"\xff\xfe\x00garbage"], "not a frame"),
    "garbage midway": ([piece(end=8), b"garbage"], "not a frame"),
}


@pytest.mark.parametrize("messages, reason", BAD_PIECES.values(), ids=BAD_PIECES)
def test_bad_factors_are_refused_and_leave_the_set_as_it_was(
    messages: list[bytes], reason: str
) -> None:
    """Both ends hear why; over a fresh stream the same step comes out right."""
    with Peers() as peers:
        stream, heard = peers.open(BROADCAST, rank=1)
        stream.send(piece(step=0))
        peers.expect(0)
        for message in messages:
            stream.send(message)
        refusal = heard.error()
        assert isinstance(refusal, ProtocolError) and reason in str(refusal)
        rank, error = peers.lost.get(timeout=WAIT_S)
        assert rank == 1 and reason in str(error)
        assert peers.service.missing() == []
        peers.send(piece(end=24), piece(begin=24))
        peers.expect(1)


def test_factors_two_steps_ahead_are_refused() -> None:
    """A peer cannot have finished a step without us, so it cannot be two ahead."""
    with Peers() as peers:
        error = peers.refused(BROADCAST, piece(step=0), piece(step=1), piece(step=2), rank=1)
        assert isinstance(error, ProtocolError) and "two steps ahead" in str(error)
        peers.expect(0)
        peers.expect(1)


def test_a_row_that_no_table_has_is_refused_before_anybody_adds_it() -> None:
    """Both ends hear which row of which table, and the set stays as it was."""
    table = RowSpec.sparse("words", num_rows=4, width=2, dtype="float32", index_dtype="int32")
    rows = pack(np.array([3, 4], "int32"), np.ones((2, 2), "float32"))
    part = Part(key=KEY + 1, step=0, rows=2, offset=0, total=len(rows), length=len(rows))
    with Peers() as peers:
        peers.service.register(KEY + 1, table)
        error = peers.refused(BROADCAST, frames.encode(FrameHeader(parts=[part]), [rows]), rank=1)
        assert isinstance(error, ProtocolError)
        assert "rank 1, step 0: 'words' has rows 0..3, got a gradient of row 4" in str(error)
        assert peers.service.missing() == []


BAD_STREAMS = {
    "no rank": ({}, "a stream without a rank"),
    "a rank that is no number": ({"rank": "one"}, "a stream without a rank"),
    "our own rank": ({"rank": 0}, "a stream of rank 0 to rank 0"),
    "a rank too high": ({"rank": 2}, "a stream of rank 2 to rank 0"),
    "one that is open": ({"rank": 1}, "a stream of rank 1 is open already"),
}


@pytest.mark.parametrize("metadata, reason", BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_a_stream_of_nobody_is_refused_and_the_peer_goes_on(
    metadata: dict[str, object], reason: str
) -> None:
    """Who may not speak hears why; the peer's open stream notices nothing."""
    with Peers() as peers:
        stream = peers.send(piece(step=0))
        peers.expect(0)
        error = peers.refused(BROADCAST, piece(step=1), **metadata)
        assert isinstance(error, ProtocolError) and reason in str(error)
        stream.send(piece(step=1))
        peers.expect(1)
        assert peers.lost.empty()


def test_a_peer_that_leaves_while_it_is_waited_for_is_named() -> None:
    """A goodbye with factors missing says after which step, and which factors."""
    with Peers() as peers:
        stream = peers.send(piece(step=0))
        peers.expect(0)
        stream.send(frames.goodbye(0))
        stream.close()
        peers.service.broadcast(KEY, 1, ROWS, factors(11.0))
        rank, error = peers.lost.get(timeout=WAIT_S)
        assert rank == 1 and isinstance(error, MemberError)
        assert "rank 1 left after step 0" in str(error) and "fc/kernel" in str(error)


def test_a_worker_may_leave_before_its_first_step() -> None:
    """A goodbye of somebody who took part in no step is a goodbye as any other."""
    with Peers() as peers:
        stream, heard = peers.open(BROADCAST, rank=1)
        stream.send(frames.goodbye(-1))
        stream.close()
        assert heard.error() is None
        assert peers.lost.empty()


def test_a_peer_that_comes_again_and_again_leaves_nothing_behind() -> None:
    """Its streams are counted once, however often they broke."""
    with Peers() as peers:
        for _ in range(20):
            assert "not a frame" in str(peers.refused(BROADCAST, b"garbage", rank=1))
        assert len(peers.service.traffic()) == 1
