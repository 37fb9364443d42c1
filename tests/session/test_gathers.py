"""What workers tell each other, in pieces: whole and in order, whatever the lengths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from poseidon_tf.coordinator.limits import MAX_NAME_CHARS, MAX_PIECE_BYTES
from poseidon_tf.errors import ProtocolError
from poseidon_tf.session.gathers import Gathers, Places

FULL = MAX_PIECE_BYTES - 8  # What goes into the first piece, behind the length.


def bytes_of(length: int, seed: int) -> bytes:
    """Such that a piece in another place would show."""
    return (b"%d:" % seed + bytes(range(251)) * (length // 251 + 1))[:length]


class Peer:
    """Answers for the other worker, which says `payload` in pieces of its own."""

    def __init__(self, payload: bytes) -> None:
        self.rounds: list[tuple[str, int]] = []
        whole = len(payload).to_bytes(8, "little") + payload
        self._pieces = iter(
            [whole[at : at + MAX_PIECE_BYTES] for at in range(0, len(whole), MAX_PIECE_BYTES)]
        )

    def exchange(self, name: str, piece: bytes) -> Sequence[bytes]:
        assert len(piece) <= MAX_PIECE_BYTES
        self.rounds.append((name, len(piece)))
        return [piece, next(self._pieces, b"")]


LENGTHS = [0, 5, FULL, FULL + 1, FULL + MAX_PIECE_BYTES, 3 * MAX_PIECE_BYTES]


@pytest.mark.parametrize("own, other", list(itertools.product(LENGTHS, LENGTHS)))
def test_everyone_has_all_that_anyone_says_whatever_the_lengths(own: int, other: int) -> None:
    """One that has said all waits for the other, in as many rounds as the longer one takes."""
    mine, theirs = bytes_of(own, 0), bytes_of(other, 1)
    peer = Peer(theirs)
    assert Gathers(num_workers=2).gather("call fit", mine, peer.exchange) == [mine, theirs]
    assert len(peer.rounds) == -(-(8 + max(own, other)) // MAX_PIECE_BYTES)


def test_what_is_short_takes_one_round() -> None:
    """It costs eight bytes more than itself."""
    peer = Peer(b"abc")
    Gathers(num_workers=2).gather("call fit", b"12345", peer.exchange)
    assert peer.rounds == [("call fit (gather 1)", 13)]


def test_gathers_are_told_apart_by_a_number_at_the_end_of_what_they_are_for() -> None:
    """Also where what they are for is longer than a name may be."""
    gathers, names = Gathers(num_workers=2), []
    for what in ("call fit", "call fit", "x" * 5000):
        peer = Peer(b"")
        gathers.gather(what, b"", peer.exchange)
        names.append(peer.rounds[0][0])
    assert names[:2] == ["call fit (gather 1)", "call fit (gather 2)"]
    assert names[2].endswith("x ... (gather 3)") and len(names[2]) <= MAX_NAME_CHARS


def test_content_is_read_as_it_leaves() -> None:
    """A worker that streams holds one of its own pieces, not all of them."""
    read: list[int] = []

    def content() -> Iterator[bytes]:
        for at in range(4):
            read.append(at)
            yield bytes(MAX_PIECE_BYTES)

    had_read: list[int] = []
    peer = Peer(b"")

    def exchange(name: str, piece: bytes) -> Sequence[bytes]:
        had_read.append(len(read))
        return peer.exchange(name, piece)

    taken = [0, 0]

    def take(rank: int, piece: memoryview) -> None:
        taken[rank] += len(piece)

    Gathers(num_workers=2).stream("go", 4 * MAX_PIECE_BYTES, content(), take, exchange)
    assert had_read == [1, 2, 3, 4, 4] and taken == [4 * MAX_PIECE_BYTES, 0]


Change = Callable[[Sequence[bytes]], list[bytes]]


@pytest.mark.parametrize(
    "change",
    [
        lambda pieces: [pieces[0], b"short"],
        lambda pieces: [pieces[0], pieces[1] + b"x"],
        lambda pieces: [pieces[0], pieces[1][:-1]],
    ],
    ids=["no length", "more than announced", "less than announced"],
)
def test_another_number_of_bytes_than_announced_is_refused(change: Change) -> None:
    """With the rank that said so."""
    peer = Peer(b"abc")
    with pytest.raises(ProtocolError, match="worker rank 1"):
        Gathers(num_workers=2).gather(
            "go", b"", lambda name, piece: change(peer.exchange(name, piece))
        )


def test_places_are_filled_across_their_borders_and_refuse_what_does_not_fit() -> None:
    """Empty places are passed over; too much and too little are errors."""
    memory = [bytearray(3), bytearray(0), bytearray(4)]
    places = Places(memoryview(each) for each in memory)
    for piece in (b"ab", b"", b"cde", b"fg"):
        places.fill(memoryview(piece))
    places.finish()
    assert memory == [b"abc", b"", b"defg"]
    with pytest.raises(ProtocolError, match="1 bytes more"):
        places.fill(memoryview(b"h"))
    short = Places([memoryview(bytearray(3))])
    short.fill(memoryview(b"a"))
    with pytest.raises(ProtocolError, match="2 bytes less"):
        short.finish()
