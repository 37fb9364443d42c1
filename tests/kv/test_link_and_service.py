"""Links and a server over real connections: sums, refusals that change nothing, leaving."""

import queue
import threading

import numpy as np
import pytest

from poseidon_tf.errors import MemberError, PeerLost, ProtocolError
from poseidon_tf.kv.service import EXCHANGE, REGISTER, stream_of
from poseidon_tf.kv.store import MAX_NAME_CHARS, key_name
from poseidon_tf.wire.frame_pb2 import FrameHeader, Part
from poseidon_tf.wire.frames import encode
from tests.kv.kv_links import WAIT_S, End, MakeCluster

pytestmark = pytest.mark.connections

ONES = np.ones(4, np.float32)


def test_every_worker_gets_every_sum(cluster: MakeCluster) -> None:
    """Sums of all keys come to all workers, also to the one that pushed last."""
    server = cluster(2)
    links = [server.link(rank) for rank in range(2)]
    assert [link.register("a", "b") for link in links] == [[0, 1]] * 2
    for rank, link in enumerate(links):
        link.push(0, k0=ONES * (rank + 1), k1=ONES * 10 * (rank + 1))
    for link in links:
        assert sorted(link.sum() for _ in range(2)) == [(0, 0, [3.0] * 4), (1, 0, [30.0] * 4)]
    assert links[0].inspect() == ({"a": (1, 1), "b": (1, 1)}, 0)


def test_a_server_knows_what_it_has_summed_and_whom_it_waited_for(cluster: MakeCluster) -> None:
    """What has come and gone in bytes; whose contribution came last; what it waits for now."""
    server = cluster(2, addresses=["a:1", "b:1"])
    links = [server.link(rank) for rank in range(2)]
    for link in links:
        link.register("a", "b")
    for step in range(3):
        links[1].push(step, k0=ONES)
        server.wait_received({(1, "a", step)})
        links[0].push(step, k0=ONES)
        server.wait_received({(0, "a", step)})
        assert [link.sum()[1] for link in links] == [step] * 2
    links[0].push(0, k1=ONES)
    server.wait_received({(0, "b", 0)})
    figures, waits_for = server.service.look()
    assert (figures.sums, figures.received_bytes, figures.sent_bytes) == (3, 7 * 16, 6 * 16)
    assert (figures.last_rank, figures.last_part) == (0, 1.0)
    assert figures.late_s > 0.0 and figures.oldest_wait_s > 0.0
    assert 0.0 < figures.summing_s and 0.0 < figures.summing < 1.0 and figures.sums_per_s > 0.0
    assert waits_for == "worker rank 1 (b:1): 'b' of step 0"
    links[1].push(0, k1=ONES)
    assert links[0].sum()[0] == 1
    figures, waits_for = server.service.look()
    assert (figures.sums, figures.last_rank, waits_for) == (4, 1, "")


def test_a_key_announced_otherwise_is_refused(cluster: MakeCluster) -> None:
    """The second worker hears which key and how it was announced before; the server goes on."""
    server = cluster(2)
    first, second = server.link(0), server.link(1)
    first.register("a", num_elements=4)
    with pytest.raises(ProtocolError, match="'a': rank 1 announces 5 x float32.*4 x float32"):
        second.register("a", num_elements=5)
    assert second.register("a") == [0]


def test_a_key_table_of_garbage_is_refused(cluster: MakeCluster) -> None:
    """Bytes that are no table are the sender's error, and no key is added."""
    server = cluster(1)
    with pytest.raises(ProtocolError, match="a key table that cannot be read"):
        server.channel().call(REGISTER, b"\xff\xff", timeout_s=WAIT_S)
    assert server.link(0).inspect() == ({}, 0)


@pytest.mark.parametrize(
    "metadata, text",
    [
        ({}, "without rank and stream number"),
        ({"rank": "one", "stream": "0"}, "without rank and stream number"),
        ({"rank": "2", "stream": "0"}, "stream 0 of rank 2; this server serves 2 workers"),
        ({"rank": "-1", "stream": "0"}, "rank -1"),
        ({"rank": "0", "stream": "2"}, "stream 2 of rank 0"),
    ],
)
def test_a_stream_of_a_stranger_is_refused(
    cluster: MakeCluster, metadata: dict[str, str], text: str
) -> None:
    """Without rank, or of a rank or number that is not of this cluster: refused with the reason."""
    end = End()
    cluster(2).channel().open_stream(EXCHANGE, end, metadata=metadata)
    error = end.get()
    assert isinstance(error, ProtocolError) and text in str(error)


def test_a_rank_that_is_here_already_is_refused(cluster: MakeCluster) -> None:
    """A second process of the same rank is told so, and the first goes on."""
    server = cluster(2)
    first = server.link(1)
    first.register("a")
    first.push(0, k0=ONES)
    server.wait_received({(1, "a", 0)})
    end = End()
    server.channel().open_stream(EXCHANGE, end, metadata={"rank": "1", "stream": "0"})
    assert "stream 0 of rank 1 is open already" in str(end.get())
    server.link(0).push(0, k0=ONES)
    assert first.sum() == (0, 0, [2.0] * 4)


def push_message(key: int = 0, step: int = 0, payload: bytes = bytes(16)) -> bytes:
    return encode(FrameHeader(parts=[Part(key=key, step=step, length=len(payload))]), [payload])


@pytest.mark.parametrize(
    "message, text",
    [
        (b"garbage", "7 bytes that are not a frame"),
        (push_message()[:-1], "not a frame"),
        (push_message(key=2), "never announced"),
        (push_message(key=1), "16 bytes of key number 1 on stream 0"),
        (push_message(step=1), "its next step is 0"),
        (push_message(payload=bytes(12)), "16 bytes of float32 are due"),
    ],
)
def test_a_refused_message_ends_its_stream_and_changes_no_sum(
    cluster: MakeCluster, message: bytes, text: str
) -> None:
    """The sender hears why, and the same rank may connect again and be summed."""
    server = cluster(2)
    link = server.link(0)
    link.register("a", "b")
    end = End()
    stream = server.channel().open_stream(EXCHANGE, end, metadata={"rank": "1", "stream": "0"})
    stream.send(message)
    error = end.get()
    assert isinstance(error, ProtocolError) and text in str(error)
    assert link.inspect() == ({"a": (0, 0), "b": (0, 0)}, 0)
    other = server.link(1)
    for each in (link, other):
        each.push(0, k0=ONES)
    assert [each.sum() for each in (link, other)] == [(0, 0, [2.0] * 4)] * 2


def test_a_worker_that_leaves_too_early_fails_those_who_wait(
    cluster: MakeCluster,
) -> None:
    """Whoever waits for its share hears who left, after which step, and what is missing."""
    server = cluster(2, addresses=["10.0.0.1:2222", "10.0.0.2:2222"])
    links = [server.link(rank) for rank in range(2)]
    for link in links:
        link.register("a")
    links[0].push(0, k0=ONES)
    server.wait_received({(0, "a", 0)})
    links[1].link.leave(-1)
    error = links[0].lost()
    assert isinstance(error, MemberError) and not isinstance(error, PeerLost)
    assert str(error) == (
        "worker rank 1 (10.0.0.2:2222) left before its first step while "
        "worker rank 0 (10.0.0.1:2222) waits for 'a' of step 0"
    )


def test_what_was_pushed_before_leaving_still_arrives(cluster: MakeCluster) -> None:
    """A goodbye overtakes no push, on either stream, even those that wait for credit."""
    server = cluster(2)
    links = [server.link(rank, window_bytes=64) for rank in range(2)]
    names = [f"k{index}" for index in range(40)]
    keys = {name: ONES for name in names}
    for link in links:
        link.register(*names)
    links[1].push(0, **keys)
    links[1].link.leave(0)
    links[0].push(0, **keys)
    # Who has left no longer listens; who stays gets every sum.
    sums = sorted(links[0].sum() for _ in names)
    assert sums == [(key, 0, [2.0] * 4) for key in range(40)]


@pytest.mark.parametrize("window_bytes", [2, 64, 32 * 1024 * 1024])
def test_any_window_finishes_in_any_order_of_keys(cluster: MakeCluster, window_bytes: int) -> None:
    """Workers that push the same keys in opposite orders all get all sums."""
    server = cluster(3)
    names = [f"k{index}" for index in range(12)]
    links = [server.link(rank, window_bytes=window_bytes) for rank in range(3)]
    for link in links:
        link.register(*names)
    for step in range(3):
        for rank, link in enumerate(links):
            link.push(step, **{name: ONES for name in (names, names[::-1], names)[rank]})
        for link in links:
            sums = sorted(link.sum() for _ in names)
            assert sums == [(key, step, [3.0] * 4) for key in range(12)]


def test_a_server_that_goes_is_lost_on_every_stream(cluster: MakeCluster) -> None:
    """Each stream's end is told, and names the server's address."""
    server = cluster(1)
    link = server.link(0)
    link.register("a")
    link.push(0, k0=ONES)
    link.sum()
    server.server.stop(grace_s=0.0)
    error = link.lost()
    assert isinstance(error, PeerLost) and server.server.address in str(error)


def test_leaving_and_closing_end_every_stream_in_order(cluster: MakeCluster) -> None:
    """After a goodbye the server ends the streams too: closing does not wait and nobody is lost."""
    before = set(threading.enumerate())
    server = cluster(1)
    link = server.link(0)
    link.register("a")
    link.push(0, k0=ONES)
    link.sum()
    link.link.leave(0)
    link.link.close(timeout_s=WAIT_S)
    readers = {t for t in threading.enumerate() if t.name == "poseidon-read"} - before
    for reader in readers:
        reader.join(WAIT_S)
    with pytest.raises(queue.Empty):
        link._lost.get_nowait()


def test_large_pieces_take_turns_and_small_ones_share_messages_on_the_first_stream() -> None:
    """By size and key alone, so that all workers and the server agree."""
    large, small = 64 * 1024 + 1, 64 * 1024
    assert [stream_of(key, large, 2) for key in range(4)] == [0, 1, 0, 1]
    assert [stream_of(key, small, 2) for key in range(4)] == [0, 0, 0, 0]
    assert [stream_of(key, large, 1) for key in range(4)] == [0, 0, 0, 0]


def test_long_names_in_any_script_are_announced_in_as_many_tables_as_they_take(
    cluster: MakeCluster,
) -> None:
    """A thousand of them have more bytes than a server reads as one table."""
    server = cluster(2)
    names = [f"{at}" + "\u5c42" * 1000 for at in range(1100)]
    for link in [server.link(rank) for rank in range(2)]:
        assert link.register(*names) == list(range(1100))


def test_names_beyond_the_limit_are_cut_and_told_apart_by_a_digest() -> None:
    """What is within it stays as it is."""
    assert key_name("dense/kernel", 3) == "dense/kernel#3"
    longest = "x" * (MAX_NAME_CHARS - 2)
    assert key_name(longest, 0) == longest + "#0"
    long_names = ["x" * 5000, "x" * 4999 + "y"]
    keys = {key_name(name, index) for name in long_names for index in (0, 1)}
    assert len(keys) == 4 and all(len(key) <= MAX_NAME_CHARS for key in keys)
