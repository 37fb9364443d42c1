"""The frame queue: what shares a frame, what the window holds back, what overtakes."""

import queue
import random
import threading

import pytest

from poseidon_tf.transport.frame_queue import FRAME_BYTES, FrameQueue
from poseidon_tf.wire.frame_pb2 import Part
from poseidon_tf.wire.frames import decode, goodbye, refusal

WAIT_S = 20.0  # Far more than anything here takes.


def part(key, num_bytes):
    return Part(key=key, length=num_bytes), bytes([key % 256]) * num_bytes


def frames_of(waiting: FrameQueue) -> list[tuple[list[int], int]]:
    """What leaves before the end: keys and credit per frame. Ends the queue."""
    waiting.close()
    headers = [decode(message)[0] for message in waiting]
    return [([part.key for part in header.parts], header.credit) for header in headers]


class Writer:
    """A stream's writer: takes frames as they come, on a thread."""

    def __init__(self, outgoing: FrameQueue):
        self._frames = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(outgoing,), name="poseidon-test")
        self._thread.start()

    def _run(self, outgoing):
        for message in outgoing:
            self._frames.put(decode(message)[0])
        self._frames.put(None)

    def next(self):
        return self._frames.get(timeout=WAIT_S)


def test_small_parts_share_frames_up_to_the_limit():
    """Ten parts of 10 kB leave as six and four, whole and in order."""
    waiting = FrameQueue()
    waiting.put_parts([part(key, 10_000) for key in range(10)])
    assert frames_of(waiting) == [([0, 1, 2, 3, 4, 5], 0), ([6, 7, 8, 9], 0)]


def test_parts_that_fill_a_frame_exactly_share_it():
    """The limit itself is still within."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, FRAME_BYTES - 1), part(1, 1), part(2, 1)])
    assert frames_of(waiting) == [([0, 1], 0), ([2], 0)]


def test_a_large_part_travels_alone():
    """Neither the small part before it nor the one behind it joins it."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, 1), part(1, FRAME_BYTES + 1), part(2, 1)])
    assert frames_of(waiting) == [([0], 0), ([1], 0), ([2], 0)]


def test_parts_carry_their_own_bytes():
    """Coalesced payloads come apart again as they were."""
    waiting = FrameQueue()
    waiting.put_parts([part(7, 3), part(8, 0), part(9, 2)])
    waiting.close()
    (message,) = waiting
    assert [bytes(view) for view in decode(message)[1]] == [b"\x07" * 3, b"", b"\x09" * 2]


def test_the_window_holds_back_what_exceeds_it():
    """60 and 40 of 100 bytes leave; one byte more does not, and is dropped at the end."""
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 60), part(1, 40), part(2, 1)])
    assert frames_of(waiting) == [([0, 1], 0)]


def test_credit_admits_the_next_part():
    """The part that was held back leaves when the peer allows as many bytes."""
    waiting = FrameQueue(window_bytes=100)
    writer = Writer(waiting)
    waiting.put_parts([part(0, 60), part(1, 60)])
    assert [p.key for p in writer.next().parts] == [0]
    waiting.take_credit(20)
    assert [p.key for p in writer.next().parts] == [1]
    waiting.close()
    assert writer.next() is None


def test_one_part_may_always_leave_however_large():
    """A part beyond the window leaves when nothing is under way, and then holds back the rest."""
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 500), part(1, 1)])
    assert frames_of(waiting) == [([0], 0)]
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 1), part(1, 500)])
    assert frames_of(waiting) == [([0], 0)]


def test_credit_for_the_peer_adds_up_and_rides_along():
    """Credit given twice leaves once, with the parts that are waiting."""
    waiting = FrameQueue()
    waiting.give_credit(30)
    waiting.give_credit(12)
    waiting.put_parts([part(0, 5)])
    assert frames_of(waiting) == [([0], 42)]


def test_credit_leaves_without_parts():
    """The peer need not wait for a sum to hear of its credit."""
    waiting = FrameQueue()
    writer = Writer(waiting)
    waiting.give_credit(30)
    assert writer.next().credit == 30
    waiting.close()
    assert writer.next() is None


def test_a_finished_frame_overtakes_parts():
    """A refusal leaves before what waits, even where the window holds everything back."""
    waiting = FrameQueue(window_bytes=10)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.put(refusal("enough"))
    waiting.close()
    first, second = (decode(message)[0] for message in waiting)
    assert first.refusal == "enough"
    assert [p.key for p in second.parts] == [0]


def test_nothing_joins_a_closed_queue():
    """Parts that come after the end are not sent."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, 1)])
    waiting.close()
    waiting.put_parts([part(1, 1)])
    assert frames_of(waiting) == [([0], 0)]


def test_the_last_word_leaves_after_all_parts():
    """A goodbye waits for the parts that credit holds back; then the queue has ended."""
    waiting = FrameQueue(window_bytes=10)
    writer = Writer(waiting)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.finish(goodbye(3))
    waiting.put_parts([part(2, 10)])
    assert [p.key for p in writer.next().parts] == [0]
    waiting.take_credit(10)
    assert [p.key for p in writer.next().parts] == [1]
    assert writer.next().goodbye.last_step == 3
    assert writer.next() is None


def test_an_unsaid_last_word_does_not_keep_a_closed_queue():
    """Closing drops parts that wait for credit, and the goodbye that would have claimed them."""
    waiting = FrameQueue(window_bytes=10)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.finish(goodbye(3))
    assert frames_of(waiting) == [([0], 0)]


@pytest.mark.parametrize("seed", range(20))
def test_any_window_lets_everything_through_in_order(seed):
    """With a peer that returns credit at random, no part is lost and the window is kept."""
    rng = random.Random(seed)
    window_bytes = rng.choice([1, 100, 1000])
    waiting = FrameQueue(window_bytes=window_bytes)
    writer = Writer(waiting)
    parts = [part(key, rng.choice([0, 1, 60, 100, 3000])) for key in range(60)]
    waiting.put_parts(parts)
    arrived, owed = [], []  # Keys; bytes that the peer has not allowed again.
    while len(arrived) < len(parts):
        for p in writer.next().parts:
            arrived.append(p.key)
            owed += [p.length] * bool(p.length)
        assert sum(owed) <= window_bytes or len(owed) == 1
        due = parts[len(arrived)][0].length if len(arrived) < len(parts) else 0
        while owed and (sum(owed) + due > window_bytes or rng.random() < 0.5):
            waiting.take_credit(owed.pop(rng.randrange(len(owed))))
    assert arrived == list(range(60))
    waiting.close()
    assert writer.next() is None
