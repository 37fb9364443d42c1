"""Parts for a frame queue, and ways to see what leaves it."""

import queue
import threading
from typing import Any

from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import Buffer, decode, encode

WAIT_S = 20.0  # Far more than anything here takes.


def part(key: int, num_bytes: int) -> tuple[Part, bytes]:
    return Part(key=key, length=num_bytes), bytes([key % 256]) * num_bytes


def finished(key: int) -> bytes:
    """A frame that was encoded elsewhere."""
    return encode(FrameHeader(parts=[Part(key=key, length=1)]), [b"x"])


def placed(key: int, payload: Buffer, offset: int) -> tuple[Part, Buffer]:
    return Part(key=key, length=len(payload), place=offset + 1), payload


def frames_of(waiting: FrameQueue) -> list[tuple[list[int], int]]:
    """What leaves before the end: keys and credit per frame. Ends the queue."""
    waiting.close()
    headers = [decode(message)[0] for message in waiting]
    return [([part.key for part in header.parts], header.credit) for header in headers]


class Writer:
    """A stream's writer: takes frames as they come, on a thread."""

    def __init__(self, outgoing: FrameQueue) -> None:
        self._frames: queue.SimpleQueue[FrameHeader | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(outgoing,), name="poseidon-test", daemon=True
        )
        self._thread.start()

    def _run(self, outgoing: FrameQueue) -> None:
        for message in outgoing:
            self._frames.put(decode(message)[0])
        self._frames.put(None)

    def next(self) -> Any:
        """The header of the next frame; None when there will be no more."""
        return self._frames.get(timeout=WAIT_S)
