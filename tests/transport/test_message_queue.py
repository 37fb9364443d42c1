"""Messages that wait for a stream's writer, and those that no writer will take."""

from poseidon_tf.transport.base import MessageQueue


def test_messages_come_out_in_order_and_end() -> None:
    waiting = MessageQueue()
    for message in (b"a", b"b"):
        waiting.put(message)
    waiting.close()
    assert list(waiting) == [b"a", b"b"]


def test_what_is_put_after_the_end_takes_no_memory() -> None:
    """Whoever was refused may go on asking: its answers are kept for nobody."""
    waiting = MessageQueue()
    waiting.close()
    for _ in range(1000):
        waiting.put(b"an answer")
        waiting.close()
    assert waiting._queue.qsize() == 1
    assert list(waiting) == []
