"""The order in which parts leave a frame queue: what overtakes what, whatever comes when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.frame_queue import FRAME_BYTES, FrameQueue
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import decode, encode
from tests.transport.queue_frames import finished, part

ALONE = FRAME_BYTES + 1  # A part that shares its frame with none.
TOP, MIDDLE, BOTTOM = 9, 5, 1  # Priorities: the bottom layer is read first.


def of_step(step: int, key: int, num_bytes: int = ALONE) -> tuple[Part, bytes]:
    return Part(key=key, step=step, length=num_bytes), bytes(num_bytes)


def left(waiting: FrameQueue) -> list[tuple[int, int]]:
    """Key and step of every part that leaves before the end. Ends the queue."""
    waiting.close()
    return [(p.key, p.step) for message in waiting for p in decode(message)[0].parts]


def test_what_is_read_first_overtakes_what_waits() -> None:
    """The bottom's gradient comes last and leaves first, in all its pieces."""
    waiting = FrameQueue()
    for priority in (TOP, MIDDLE, BOTTOM):
        waiting.put_parts([part(10 * priority + at, ALONE) for at in (0, 1)], priority=priority)
    assert [key for key, _ in left(waiting)] == [10, 11, 50, 51, 90, 91]


def test_a_large_tensor_is_overtaken_between_its_pieces_and_none_comes_back() -> None:
    """Two pieces have left; the others wait for what is more urgent."""
    waiting = FrameQueue()
    waiting.put_parts([part(key, ALONE) for key in range(4)], priority=TOP)
    frames = iter(waiting)
    before = [decode(next(frames))[0].parts[0].key for _ in range(2)]
    waiting.put_parts([part(7, ALONE)], priority=BOTTOM)
    assert before == [0, 1]
    assert [key for key, _ in left(waiting)] == [7, 2, 3]


def test_finished_frames_are_overtaken_and_overtake() -> None:
    """They have a turn like parts, though the queue does not look into them."""
    waiting = FrameQueue()
    waiting.put_frame(finished(9), priority=TOP)
    waiting.put_parts([part(5, ALONE)], priority=MIDDLE)
    waiting.put_frame(finished(1), priority=BOTTOM)
    assert [key for key, _ in left(waiting)] == [1, 5, 9]


def test_small_parts_share_a_frame_in_the_order_of_their_priorities() -> None:
    """A frame is filled with the most urgent; what comes first in it is read first."""
    waiting = FrameQueue()
    for priority in (TOP, MIDDLE, BOTTOM):
        waiting.put_parts([part(priority, FRAME_BYTES // 2)], priority=priority)
    waiting.close()
    keys = [[p.key for p in decode(message)[0].parts] for message in waiting]
    assert keys == [[BOTTOM, MIDDLE], [TOP]]


def test_no_later_step_keeps_an_earlier_one_waiting() -> None:
    """The top's part of step 3 leaves before the bottom's of step 4; of one step it is the last."""
    waiting = FrameQueue()
    for step in (4, 3):
        for priority in (TOP, BOTTOM):
            waiting.put_parts([of_step(step, priority)], priority=priority)
    assert left(waiting) == [(BOTTOM, 3), (TOP, 3), (BOTTOM, 4), (TOP, 4)]


def test_what_is_waited_for_at_once_overtakes_every_step() -> None:
    """Priority 0 has steps of its own, which no others are compared with."""
    waiting = FrameQueue()
    waiting.put_parts([of_step(0, BOTTOM)], priority=BOTTOM)
    waiting.put_parts([of_step(700, 70), of_step(701, 70)])
    waiting.put_parts([of_step(0, 71)])
    assert left(waiting) == [(70, 700), (70, 701), (71, 0), (BOTTOM, 0)]


def test_nothing_leaves_in_the_stead_of_what_is_urgent_and_has_no_credit() -> None:
    """Small parts would otherwise use up what a large one waits for, again and again."""
    waiting = FrameQueue(window_bytes=100, credit_step=5)
    frames = iter(waiting)
    waiting.put_parts([part(1, 60)], priority=TOP)
    next(frames)
    waiting.put_parts([part(2, 1)], priority=TOP)
    waiting.put_parts([part(3, 90)], priority=BOTTOM)
    assert not waiting.is_ready()
    waiting.take_credit(50)
    assert [p.key for p in decode(next(frames))[0].parts] == [3]


class Waiting(NamedTuple):
    """What has been put and not taken; the least is the first in turn."""

    order: tuple[int, int]
    number: int
    key: int
    step: int
    size: int
    is_finished: bool


def test_what_was_overtaken_leaves_as_it_would_have_without_being_overtaken() -> None:
    """What overtook it may need what it is part of: the two must not wait for each other.

    It may leave when no more than the credit that may be kept back is owed for older parts.
    """
    waiting = FrameQueue(window_bytes=100, credit_step=5)
    frames = iter(waiting)
    waiting.put_parts([part(0, 60)], priority=TOP)
    next(frames)
    waiting.put_parts([part(1, 50)], priority=TOP)
    waiting.put_parts([part(2, 40), part(3, 90), part(4, 90)], priority=BOTTOM)
    assert [p.key for p in decode(next(frames))[0].parts] == [2]
    assert not waiting.is_ready()
    waiting.take_credit(54)
    assert not waiting.is_ready()
    waiting.take_credit(1)
    assert [p.key for p in decode(next(frames))[0].parts] == [1]
    assert not waiting.is_ready()


@dataclass
class Watched:
    """A queue, and what must be true of it.

    Keys have fixed priorities and count their steps, as those of a link do.
    """

    window_bytes: int | None
    credit_step: int
    priorities: list[int]
    waiting: list[Waiting] = field(default_factory=list)
    left: list[tuple[int, int]] = field(default_factory=list)
    put: list[int] = field(default_factory=list)  # Sizes, by number; 0 of what needs no credit.
    credited_bytes: int = 0
    in_flight_bytes: int = 0

    def __post_init__(self) -> None:
        self.queue = FrameQueue(window_bytes=self.window_bytes, credit_step=self.credit_step)
        self.frames = iter(self.queue)
        self.next_steps = [0] * len(self.priorities)

    def add(self, key: int, sizes: list[int], *, is_finished: bool) -> None:
        priority, step = self.priorities[key], self.next_steps[key]
        self.next_steps[key] += 1
        for size in sizes:
            order = (step if priority else -1, priority)
            self.waiting.append(Waiting(order, len(self.put), key, step, size, is_finished))
            self.put.append(0 if is_finished else size)
        parts = [of_step(step, key, size) for size in sizes]
        if not is_finished:
            self.queue.put_parts(parts, priority=priority)
            return
        for one, payload in parts:
            frame = encode(FrameHeader(parts=[one]), [payload])
            self.queue.put_frame(frame, step=step, priority=priority)

    def next(self) -> Waiting | None:
        """The first in turn, if it may leave; else the oldest, if nothing had overtaken it."""
        if not self.waiting:
            return None
        first = min(self.waiting)
        oldest = min(self.waiting, key=lambda each: each.number)
        if self.window_bytes is None or first.is_finished or not first.size:
            return first
        if self.in_flight_bytes <= self.credit_step:
            return first
        if self.in_flight_bytes + first.size <= self.window_bytes:
            return first
        owed_before = sum(self.put[: oldest.number]) - self.credited_bytes
        return oldest if owed_before <= self.credit_step else None

    def take(self) -> None:
        assert self.queue.is_ready() == (self.next() is not None)
        if not self.queue.is_ready():
            return
        header, _ = decode(next(self.frames))
        assert header.parts
        if len(header.parts) > 1:
            assert sum(each.length for each in header.parts) <= FRAME_BYTES
        for each in header.parts:
            first = self.next()
            assert first is not None
            assert (each.key, each.step, each.length) == (first.key, first.step, first.size)
            self.waiting.remove(first)
            self.left.append((first.key, first.step))
            if not first.is_finished and self.window_bytes is not None:
                self.in_flight_bytes += first.size
                most = max(self.window_bytes, self.credit_step + max(self.put))
                assert self.in_flight_bytes <= most + self.credit_step + max(self.put)

    def allow(self, num_bytes: int) -> None:
        num_bytes = min(num_bytes, self.in_flight_bytes)
        self.queue.take_credit(num_bytes)
        self.in_flight_bytes -= num_bytes
        self.credited_bytes += num_bytes


SIZES = st.sampled_from([0, 1, 60, 1000, 3000, FRAME_BYTES - 1, ALONE])
ADDED = st.tuples(st.integers(0, 4), st.lists(SIZES, min_size=1, max_size=3), st.booleans())
EVENTS = st.lists(st.one_of(st.just("take"), st.integers(0, 5000), ADDED, ADDED), max_size=60)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.one_of(st.none(), st.sampled_from([1, 2000, ALONE])),
    st.sampled_from([0, 1, 2500]),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    EVENTS,
)
def test_whatever_comes_when_everything_leaves_once_in_turn_and_within_the_credit(
    window_bytes: int | None, credit_step: int, priorities: list[int], events: list[object]
) -> None:
    """Parts and finished frames of five keys, put, taken and credited in any order.

    All leave, once; each key's in the order of its steps; nothing stays that may leave.
    """
    watched = Watched(window_bytes, credit_step, priorities)
    for event in events:
        match event:
            case "take":
                watched.take()
            case int():
                watched.allow(event)
            case (int(key), list(sizes), bool(is_finished)):
                watched.add(key, sizes, is_finished=is_finished)
    while watched.waiting:
        watched.allow(watched.in_flight_bytes)
        watched.take()
    assert not watched.queue.is_ready()
    assert len(watched.left) == len(watched.put)
    for key in range(len(priorities)):
        steps = [step for of, step in watched.left if of == key]
        assert steps == sorted(steps)


def test_credit_for_nothing_is_still_refused_when_parts_have_been_overtaken() -> None:
    """Credit is counted in bytes that have left, whatever their order."""
    waiting = FrameQueue(window_bytes=100)
    frames = iter(waiting)
    waiting.put_parts([part(0, 60)], priority=TOP)
    waiting.put_parts([part(1, 30)], priority=BOTTOM)
    next(frames)
    with pytest.raises(ProtocolError, match="of which 90 are under way"):
        waiting.take_credit(91)
