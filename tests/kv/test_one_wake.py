"""What one frame leads to leaves together: each stream's writer is woken once for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.kv.service import EXCHANGE, REGISTER, KVService
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.transport.server import Server
from poseidon_tf.wire import frames
from poseidon_tf.wire.frame_pb2 import FrameHeader, Key, KeyTable, Part
from tests.kv.test_service_memory import Endpoint

pytestmark = pytest.mark.connections  # The service's file names a transport's parts.

NUM_KEYS, NUM_WORKERS = 12, 3
VALUES = np.arange(4, dtype=np.float32)


class Woken:
    """Counts how often a queue's writer is woken."""

    def __init__(self, outgoing: FrameQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outgoing, self.times = outgoing, 0
        condition = outgoing._changed
        notify = condition.notify

        def counted(n: int = 1) -> None:
            self.times += 1
            notify(n)

        monkeypatch.setattr(condition, "notify", counted)

    def frames(self) -> list[FrameHeader]:
        taken = iter(self.outgoing)
        found = []
        while self.outgoing.is_ready():
            found.append(frames.decode(next(taken))[0])
        return found


def served(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Woken]]:
    """By rank: a service's end of a worker's stream, and what goes out on it."""
    endpoint = Endpoint()
    KVService(cast(Server, endpoint), num_workers=NUM_WORKERS, num_streams=1)
    keys = [Key(name=str(at), dtype="float32", num_elements=4) for at in range(NUM_KEYS)]
    endpoint.calls[REGISTER](KeyTable(rank=0, keys=keys).SerializeToString())
    ends, woken = [], []
    for rank in range(NUM_WORKERS):
        metadata = {"rank": str(rank), "stream": "0", "credit_step": "0"}
        stream = SimpleNamespace(metadata=metadata, outgoing=None, close=lambda: None)
        ends.append(endpoint.streams[EXCHANGE](stream))
        woken.append(Woken(cast(FrameQueue, stream.outgoing), monkeypatch))
    return ends, woken


def frame(keys: Sequence[int], *, step: int = 0) -> bytes:
    parts = [Part(key=key, step=step, length=VALUES.nbytes) for key in keys]
    return frames.encode(FrameHeader(parts=parts), [VALUES.data.cast("B")] * len(parts))


def test_the_sums_of_one_frame_leave_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker gets all twelve, and its credit, with one message and one wake."""
    ends, woken = served(monkeypatch)
    for end in ends[:-1]:
        end.on_message(frame(range(NUM_KEYS)))
    before = [each.times for each in woken]
    ends[-1].on_message(frame(range(NUM_KEYS)))
    assert [each.times - was for each, was in zip(woken, before, strict=True)] == [1] * NUM_WORKERS
    for each in woken:
        (header,) = each.frames()
        assert [part.key for part in header.parts] == list(range(NUM_KEYS))
        assert header.credit == NUM_KEYS * VALUES.nbytes


def test_what_was_taken_before_a_refused_part_still_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that nobody announced ends its sender's stream; the sums before it are complete."""
    ends, woken = served(monkeypatch)
    for end in ends[:-1]:
        end.on_message(frame([0, 1]))
    with pytest.raises(ProtocolError, match="never announced"):
        ends[-1].on_message(frame([0, NUM_KEYS, 1]))
    for each in woken:
        assert [part.key for header in each.frames() for part in header.parts] == [0]
