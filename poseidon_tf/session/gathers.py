"""What workers tell each other: everyone's bytes to everyone, in rounds of bounded pieces.

In a round every worker gives one piece to the coordinator and gets everyone's. The first piece
begins with the length of all that its worker will say, so everyone knows which round is the last;
who has said all gives empty pieces until then. What is short takes one round. No threads here.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, final

from poseidon_tf.coordinator.limits import MAX_NAME_CHARS, piece_bytes
from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.base import shortened

# How many bytes a worker will say, without these, before them.
_LENGTH = struct.Struct("<Q")
_NUMBER_CHARS = 32  # Room for what tells one gather from the next.


class Exchange(Protocol):
    """One round: this worker's piece for everyone's, in rank order."""

    def __call__(self, name: str, piece: bytes) -> Sequence[bytes]: ...


class Take(Protocol):
    """Hears what worker `rank` says, piece after piece, as bytes that stay as they are."""

    def __call__(self, rank: int, piece: memoryview) -> None: ...


@final
class Gathers:
    """The gathers of one worker; all workers make the same ones in the same order."""

    def __init__(self, *, num_workers: int) -> None:
        self._numbers = itertools.count(1)
        self._piece_bytes = piece_bytes(num_workers)

    def gather(self, what: str, payload: bytes, exchange: Exchange) -> list[bytes]:
        """Every worker's `payload`, in rank order.

        Args:
          what: all workers must do to come here, as in "worker rank 1 has to <what>".

        Raises:
          ProtocolError: another worker says more or less than it has announced.
        """
        said: dict[int, list[memoryview]] = {}

        def take(rank: int, piece: memoryview) -> None:
            said.setdefault(rank, []).append(piece)

        self.stream(what, len(payload), [payload], take, exchange)
        return [b"".join(said[rank]) for rank in range(len(said))]

    def stream(
        self,
        what: str,
        num_bytes: int,
        content: Iterable[bytes | memoryview],
        take: Take,
        exchange: Exchange,
    ) -> None:
        """The same for what nobody has to hold as a whole.

        Args:
          num_bytes: of all `content` together, which is read as it leaves.
          take: hears everyone's, this worker's own included; in each round in rank order.
        """
        most_chars = MAX_NAME_CHARS - _NUMBER_CHARS
        name = f"{shortened(what, most_chars=most_chars)} (gather {next(self._numbers)})"
        own = _cut(num_bytes, content, self._piece_bytes)
        left: list[int] = []  # By rank, what it has not said yet.
        while not left or any(left):
            for rank, part in enumerate(exchange(name, next(own, b""))):
                piece = memoryview(part)
                if rank == len(left):
                    left.append(_announced(rank, piece))
                    due = min(left[rank], self._piece_bytes)
                    said = piece[_LENGTH.size :]
                else:
                    due = min(left[rank], self._piece_bytes)
                    said = piece
                if len(piece) != due:
                    raise ProtocolError(
                        f"worker rank {rank} said {len(piece)} bytes of {left[rank]} where {due} "
                        f"are due: all workers must {name}"
                    )
                left[rank] -= due
                take(rank, said)


def _announced(rank: int, piece: memoryview) -> int:
    """How many bytes come from `rank` with and after its first piece."""
    if len(piece) < _LENGTH.size:
        raise ProtocolError(f"worker rank {rank} gathers without saying how much")
    (length,) = _LENGTH.unpack_from(piece)
    return int(length) + _LENGTH.size


def _cut(num_bytes: int, content: Iterable[bytes | memoryview], most: int) -> Iterator[bytes]:
    """The length and then the content, in pieces of `most` bytes and a last shorter one."""
    piece = bytearray(_LENGTH.pack(num_bytes))
    left = num_bytes
    for buffer in content:
        rest = memoryview(buffer)
        left -= len(rest)
        while rest:
            room = most - len(piece)
            piece += rest[:room]
            rest = rest[room:]
            if len(piece) == most:
                yield bytes(piece)
                piece.clear()
    assert left == 0, f"{num_bytes} bytes were announced, {left} did not come"
    if piece:
        yield bytes(piece)


@final
class Places:
    """Memory that is filled from its beginning by what comes in pieces.

    Args:
      places: writable, in order; each is asked for when the one before is full.
    """

    def __init__(self, places: Iterable[memoryview]) -> None:
        self._places = iter(places)
        self._place = memoryview(b"")

    def fill(self, piece: memoryview) -> None:
        """Put `piece` behind what has come before.

        Raises:
          ProtocolError: there is no place for so much.
        """
        while piece:
            while not self._place:
                place = next(self._places, None)
                if place is None:
                    raise ProtocolError(f"{len(piece)} bytes more than there is a place for")
                self._place = place
            length = min(len(self._place), len(piece))
            self._place[:length] = piece[:length]
            self._place, piece = self._place[length:], piece[length:]

    def finish(self) -> None:
        """All has come.

        Raises:
          ProtocolError: some place is not full.
        """
        left = len(self._place) + sum(len(place) for place in self._places)
        if left:
            raise ProtocolError(f"{left} bytes less than there are places for")
