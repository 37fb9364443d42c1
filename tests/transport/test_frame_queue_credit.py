"""The frame queue's window: what it holds back, what credit admits, and what credit waits for."""

import random

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.frame_queue import FrameQueue
from poseidon_tf.wire.frames import decode, refusal
from tests.transport.queue_frames import Writer, finished, frames_of, part


def test_the_window_holds_back_what_exceeds_it() -> None:
    """60 and 40 of 100 bytes leave; one byte more does not, and is dropped at the end."""
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 60), part(1, 40), part(2, 1)])
    assert frames_of(waiting) == [([0, 1], 0)]


def test_credit_admits_the_next_part() -> None:
    """The part that was held back leaves when the peer allows as many bytes."""
    waiting = FrameQueue(window_bytes=100)
    writer = Writer(waiting)
    waiting.put_parts([part(0, 60), part(1, 60)])
    assert [p.key for p in writer.next().parts] == [0]
    waiting.take_credit(20)
    assert [p.key for p in writer.next().parts] == [1]
    waiting.close()
    assert writer.next() is None


def test_one_part_may_always_leave_however_large() -> None:
    """A part beyond the window leaves when nothing is under way, and then holds back the rest."""
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 500), part(1, 1)])
    assert frames_of(waiting) == [([0], 0)]
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 1), part(1, 500)])
    assert frames_of(waiting) == [([0], 0)]


def test_credit_for_the_peer_adds_up_and_rides_along() -> None:
    """Credit given twice leaves once, with the parts that are waiting."""
    waiting = FrameQueue()
    waiting.give_credit(30)
    waiting.give_credit(12)
    waiting.put_parts([part(0, 5)])
    assert frames_of(waiting) == [([0], 42)]


def test_credit_leaves_without_parts() -> None:
    """The peer need not wait for a sum to hear of its credit."""
    waiting = FrameQueue()
    writer = Writer(waiting)
    waiting.give_credit(30)
    assert writer.next().credit == 30
    waiting.close()
    assert writer.next() is None


def test_a_finished_frame_loses_no_credit() -> None:
    """A frame that cannot carry the credit does not lose it: the next one does."""
    waiting = FrameQueue()
    waiting.give_credit(30)
    waiting.put_frame(finished(0))
    assert frames_of(waiting) == [([0], 0), ([], 30)]


def test_little_credit_is_kept_back() -> None:
    """Up to the step it stays; one byte more, and all of it leaves."""
    waiting = FrameQueue(credit_step=100)
    writer = Writer(waiting)
    waiting.give_credit(60)
    waiting.give_credit(40)
    waiting.put(refusal("a frame that shows that there was no credit before it"))
    assert writer.next().refusal
    waiting.give_credit(1)
    assert writer.next().credit == 101
    waiting.close()
    assert writer.next() is None


def test_credit_that_is_kept_back_rides_along() -> None:
    """Parts that leave anyway take it with them, however little it is."""
    waiting = FrameQueue(credit_step=100)
    waiting.give_credit(1)
    waiting.put_parts([part(0, 5)])
    assert frames_of(waiting) == [([0], 1)]


@pytest.mark.parametrize("in_flight_bytes, leaves", [(30, True), (31, False)])
def test_a_part_may_leave_when_all_credit_may_be_kept_back(
    in_flight_bytes: int, leaves: bool
) -> None:
    """What is under way up to the step may have been taken: a part beyond the window leaves."""
    waiting = FrameQueue(window_bytes=40, credit_step=30)
    waiting.put_parts([part(0, in_flight_bytes), part(1, 500)])
    waiting.close()
    keys = [p.key for message in waiting for p in decode(message)[0].parts]
    assert keys == ([0, 1] if leaves else [0])


@pytest.mark.parametrize("window_bytes", [1, 100, 1000])
@pytest.mark.parametrize("credit_step", [0, 1, 99, 100, 5000])
def test_credit_that_is_kept_back_stops_no_stream(window_bytes: int, credit_step: int) -> None:
    """A peer that keeps back as much as it may gets everything, and not too much at once."""
    rng = random.Random(window_bytes * credit_step)
    waiting = FrameQueue(window_bytes=window_bytes, credit_step=credit_step)
    returning = FrameQueue(credit_step=credit_step)
    writer, returned = Writer(waiting), Writer(returning)
    lengths = [rng.choice([0, 1, 60, 100, 3000]) for _ in range(100)]
    waiting.put_parts([part(key, length) for key, length in enumerate(lengths)])
    arrived: list[int] = []
    kept = 0
    while len(arrived) < len(lengths):
        frame = writer.next()
        num_bytes = sum(p.length for p in frame.parts)
        assert kept + num_bytes <= max(window_bytes, credit_step + max(lengths))
        for p in frame.parts:
            arrived.append(p.key)
            kept += p.length
            returning.give_credit(p.length)
            if kept > credit_step:
                credit = returned.next().credit
                assert credit == kept
                waiting.take_credit(credit)
                kept = 0
    assert arrived == list(range(100))
    for outgoing in (waiting, returning):
        outgoing.close()


@pytest.mark.parametrize("seed", range(20))
def test_any_window_lets_everything_through_in_order(seed: int) -> None:
    """With a peer that returns credit at random, no part is lost and the window is kept."""
    rng = random.Random(seed)
    window_bytes = rng.choice([1, 100, 1000])
    waiting = FrameQueue(window_bytes=window_bytes)
    writer = Writer(waiting)
    parts = [part(key, rng.choice([0, 1, 60, 100, 3000])) for key in range(60)]
    waiting.put_parts(parts)
    arrived: list[int] = []  # Keys.
    owed: list[int] = []  # Bytes that the peer has not allowed again.
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


def test_credit_for_more_than_is_under_way_is_refused_and_admits_nothing() -> None:
    """A peer cannot widen the window by giving back what it never got."""
    waiting = FrameQueue(window_bytes=100)
    waiting.put_parts([part(0, 60), part(1, 60)])
    outgoing = iter(waiting)
    next(outgoing)
    with pytest.raises(ProtocolError, match="credit for 61 bytes, of which 60 are under way"):
        waiting.take_credit(61)
    waiting.put_parts([part(2, 1)])
    assert frames_of(waiting) == []
