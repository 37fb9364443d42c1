"""The frame queue: what shares a frame, what overtakes, what still leaves at the end."""

from poseidon_tf.transport.frame_queue import FRAME_BYTES, FrameQueue
from poseidon_tf.wire.frames import MAX_PARTS, decode, goodbye, refusal
from tests.transport.queue_frames import Writer, finished, frames_of, part


def test_small_parts_share_frames_up_to_the_limit() -> None:
    """Ten parts of 40 kB leave as six and four, whole and in order."""
    waiting = FrameQueue()
    waiting.put_parts([part(key, 40_000) for key in range(10)])
    assert frames_of(waiting) == [([0, 1, 2, 3, 4, 5], 0), ([6, 7, 8, 9], 0)]


def test_parts_that_fill_a_frame_exactly_share_it() -> None:
    """The limit itself is still within."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, FRAME_BYTES - 1), part(1, 1), part(2, 1)])
    assert frames_of(waiting) == [([0, 1], 0), ([2], 0)]


def test_a_large_part_travels_alone() -> None:
    """Neither the small part before it nor the one behind it joins it."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, 1), part(1, FRAME_BYTES + 1), part(2, 1)])
    assert frames_of(waiting) == [([0], 0), ([1], 0), ([2], 0)]


def test_parts_carry_their_own_bytes() -> None:
    """Coalesced payloads come apart again as they were."""
    waiting = FrameQueue()
    waiting.put_parts([part(7, 3), part(8, 0), part(9, 2)])
    waiting.close()
    (message,) = waiting
    assert [bytes(view) for view in decode(message)[1]] == [b"\x07" * 3, b"", b"\x09" * 2]


def test_a_finished_frame_overtakes_parts() -> None:
    """A refusal leaves before what waits, even where the window holds everything back."""
    waiting = FrameQueue(window_bytes=10)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.put(refusal("enough"))
    waiting.close()
    first, second = (decode(message)[0] for message in waiting)
    assert first.refusal == "enough"
    assert [p.key for p in second.parts] == [0]


def test_nothing_joins_a_closed_queue() -> None:
    """Parts that come after the end are not sent."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, 1)])
    waiting.close()
    waiting.put_parts([part(1, 1)])
    assert frames_of(waiting) == [([0], 0)]


def test_the_last_word_leaves_after_all_parts() -> None:
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


def test_an_unsaid_last_word_does_not_keep_a_closed_queue() -> None:
    """Closing drops parts that wait for credit, and the goodbye that would have claimed them."""
    waiting = FrameQueue(window_bytes=10)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.finish(goodbye(3))
    assert frames_of(waiting) == [([0], 0)]


def test_a_finished_frame_may_take_its_turn() -> None:
    """It leaves as it is, alone, behind the parts before it and before those behind it."""
    waiting = FrameQueue()
    waiting.put_parts([part(0, 1), part(1, 1)])
    waiting.put_frame(finished(2))
    waiting.put_parts([part(3, 1)])
    waiting.put_frame(finished(4))
    waiting.close()
    messages = list(waiting)
    assert messages[1] == finished(2) and messages[3] == finished(4)
    keys = [[p.key for p in decode(message)[0].parts] for message in messages]
    assert keys == [[0, 1], [2], [3], [4]]


def test_a_finished_frame_overtakes_no_part_that_is_held_back() -> None:
    """It waits behind a part without credit, needs none itself, and is dropped with it."""
    waiting = FrameQueue(window_bytes=10)
    waiting.put_parts([part(0, 10), part(1, 10)])
    waiting.put_frame(finished(2))
    waiting.put_frame(finished(3))
    writer = Writer(waiting)
    assert [p.key for p in writer.next().parts] == [0]
    waiting.take_credit(10)
    assert [writer.next().parts[0].key for _ in range(3)] == [1, 2, 3]
    waiting.put_parts([part(4, 10)])
    waiting.put_frame(finished(5))
    waiting.close()
    waiting.put_frame(finished(6))
    assert writer.next() is None


def test_no_finished_frame_follows_the_last_word() -> None:
    """What is put after a goodbye is not sent, whatever it is."""
    waiting = FrameQueue()
    waiting.put_frame(finished(0))
    waiting.finish(goodbye(3))
    waiting.put_frame(finished(1))
    headers = [decode(message)[0] for message in waiting]
    assert [p.key for p in headers[0].parts] == [0]
    assert [header.goodbye.last_step for header in headers[1:]] == [3]


def test_no_frame_has_more_parts_than_a_peer_takes() -> None:
    """Parts without bytes take no room of a frame, and are counted all the same."""
    waiting = FrameQueue()
    waiting.put_parts([part(key, 0) for key in range(2 * MAX_PARTS + 1)])
    leaving = frames_of(waiting)
    assert [len(keys) for keys, _ in leaving] == [MAX_PARTS, MAX_PARTS, 1]
    assert [key for keys, _ in leaving for key in keys] == list(range(2 * MAX_PARTS + 1))
