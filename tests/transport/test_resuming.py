"""The bookkeeping of a stream that outlives its connections, fed with breaks at any point."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable

import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.resuming import ACKNOWLEDGE_BYTES, ACKNOWLEDGE_MESSAGES, Ledger
from poseidon_tf.wire.frames import Message

GREETING = b"\x00a" + bytes(8)
END = b"\x00e"


def acknowledgement(count: int) -> bytes:
    return b"\x00a" + count.to_bytes(8, "little")


class End:
    """One end: its ledger, what it still has to send, what it heard, what is on the wire to it."""

    def __init__(self, messages: list[bytes]) -> None:
        self.ledger = Ledger()
        self.left = deque(messages)
        self.heard: list[Message] = []
        self.wire: deque[Message] = deque()
        self.most_kept = 0

    def add(self) -> None:
        if self.left:
            self.ledger.add(self.left.popleft())
        elif not self.ledger.has_ended:
            self.ledger.end()

    def say(self, other: End) -> None:
        if (message := self.ledger.take()) is not None:
            other.wire.append(message)
        self.most_kept = max(self.most_kept, len(self.ledger._unacknowledged))

    def hear(self) -> None:
        if self.wire and (payload := self.ledger.hear(self.wire.popleft())) is not None:
            self.heard.append(payload)


def random_messages(rng: random.Random) -> list[bytes]:
    """Of all kinds, those that look like the ledger's own words too."""
    kinds = [b"", b"\x00", b"\x00a", END, b"\x00\x00", GREETING, b"payload"]
    return [rng.choice(kinds) + bytes([rng.randrange(256)]) * rng.randrange(3) for _ in range(150)]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_breaks_each_message_is_heard_once_and_in_order(seed: int) -> None:
    """Random turns of adding, sending, hearing, and connections that break with what they carry."""
    rng = random.Random(seed)
    sent = [random_messages(rng), random_messages(rng)]
    ends = [End(messages) for messages in sent]
    break_share = rng.choice([0.0, 0.01, 0.1])
    for _ in range(200_000):
        if all(end.ledger.is_done for end in ends):
            break
        if rng.random() < break_share:
            for end in ends:
                end.wire.clear()
                end.ledger.reconnect()
        end, other = rng.choice([ends, ends[::-1]])
        say = functools.partial(end.say, other)
        moves: list[Callable[[], None]] = [end.add, say, end.hear]
        rng.choice(moves)()
    assert [end.ledger.is_done for end in ends] == [True, True]
    assert [end.heard for end in ends] == sent[::-1]
    assert all(end.ledger.is_idle for end in ends)


@pytest.mark.parametrize("size, most_kept", [(10, 64), (ACKNOWLEDGE_BYTES // 8, 8)])
def test_no_more_is_kept_than_what_may_come_before_it_is_acknowledged(
    size: int, most_kept: int
) -> None:
    """A stream one way, without breaks: 64 messages or 4 MiB are kept, however long it is."""
    assert ACKNOWLEDGE_MESSAGES == 64
    sender, hearer = End([bytes(size)] * 1000), End([])
    while sender.left:
        sender.add()
        sender.say(hearer)
        hearer.hear()
        hearer.say(sender)
        sender.hear()
    assert sender.most_kept <= most_kept + 1


def test_few_words_are_said_about_many_messages() -> None:
    """One acknowledgement for 64 messages."""
    sender, hearer = End([b"m"] * 6400), End([])
    words = 0
    while sender.left:
        sender.add()
        sender.say(hearer)
        hearer.hear()
        hearer.say(sender)
        words += len(sender.wire)
        sender.hear()
    assert 99 <= words <= 102


def test_a_quiet_stream_needs_no_words() -> None:
    """After the greeting nothing is due until there are many messages; a message is just kept."""
    ledger = Ledger()
    assert ledger.take() == GREETING
    ledger.add(b"m")
    assert ledger.take() == b"m" and ledger.take() is None
    assert ledger.hear(b"n") == b"n" and ledger.take() is None
    assert not ledger.is_idle


def test_nothing_is_sent_again_before_the_peer_has_said_how_much_it_has() -> None:
    """On a new connection the greeting decides; what came before it did arrive is not repeated."""
    ledger = Ledger()
    for message in (b"1", b"2", b"3"):
        ledger.add(message)
    assert [ledger.take() for _ in range(5)] == [GREETING, b"1", b"2", b"3", None]
    ledger.reconnect()
    ledger.add(b"4")
    assert [ledger.take() for _ in range(2)] == [GREETING, None]
    with pytest.raises(ProtocolError, match="4 messages; 0 of 3"):
        ledger.hear(acknowledgement(4))  # The fourth has never been sent.
    assert ledger.hear(acknowledgement(2)) is None
    assert [ledger.take() for _ in range(3)] == [b"3", b"4", None]


@pytest.mark.parametrize(
    "message, reason",
    [
        (acknowledgement(4), "an acknowledgement of 4 messages; 1 of 2"),
        (acknowledgement(3), "an acknowledgement of 3 messages; 1 of 2"),  # Not sent yet.
        (acknowledgement(0), "an acknowledgement of 0 messages; 1 of 2"),
        (acknowledgement(1)[:-1], "cannot be read"),
        (acknowledgement(1) + b"\x00", "cannot be read"),
        (b"\x00", "neither a message nor"),
        (b"\x00z", "neither a message nor"),
        (END + b"\x00", "neither a message nor"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(message: bytes, reason: str) -> None:
    """Of three messages two have been sent and one acknowledged."""
    ledger = Ledger()
    ledger.take()
    for payload in (b"1", b"2"):
        ledger.add(payload)
        ledger.take()
    ledger.hear(acknowledgement(1))
    ledger.add(b"3")
    with pytest.raises(ProtocolError, match=reason):
        ledger.hear(message)
    assert (ledger.num_received, ledger.num_acknowledged) == (0, 1)
    assert [ledger.take(), ledger.take()] == [b"3", None]


def test_what_comes_out_of_turn_is_refused() -> None:
    """Before the greeting of a new connection, and after the end."""
    ledger = Ledger()
    ledger.reconnect()
    with pytest.raises(ProtocolError, match="before the greeting"):
        ledger.hear(b"m")
    ledger.hear(GREETING)
    assert ledger.hear(END) is None and ledger.peer_has_ended
    for message in (b"m", END):
        with pytest.raises(ProtocolError, match="after the end"):
            ledger.hear(message)
    assert ledger.num_received == 1
