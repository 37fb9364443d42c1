"""What is waited for, how long already, and when to speak or give up. No threads, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, final

from poseidon_tf.coordinator.limits import MAX_GATHER_BYTES, MAX_OPEN_GATHERS
from poseidon_tf.coordinator.messages import Gather, StopOffer

NOTICE_PERIOD_S = 10.0


@final
@dataclass(slots=True)
class Wait:
    """A wait that is worth a notice now and then, until its deadline.

    Attributes:
      first_s, repeat_s: seconds until the first notice, and from each to the next.
    """

    started_s: float
    deadline_s: float
    first_s: float = NOTICE_PERIOD_S
    repeat_s: float = NOTICE_PERIOD_S
    _next_notice_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._next_notice_s = self.started_s + self.first_s

    def is_over(self, now_s: float) -> bool:
        """Whether the deadline has passed."""
        return now_s >= self.deadline_s

    def take_notice(self, now_s: float) -> bool:
        """Whether a notice is due; True once per period."""
        is_due = now_s >= self._next_notice_s
        while self._next_notice_s <= now_s:
            self._next_notice_s += self.repeat_s
        return is_due

    def progress(self, now_s: float) -> str:
        """How long it has lasted, of how long it may."""
        return f"{now_s - self.started_s:.0f} s of {self.deadline_s - self.started_s:.0f} s"


class Notices(NamedTuple):
    """When a wait of workers that train is worth a notice; see `Wait`."""

    first_s: float
    repeat_s: float


@final
@dataclass(slots=True)
class OpenGather:
    """A gather that not every worker has contributed to; the first deadline counts."""

    wait: Wait
    parts: dict[int, bytes] = field(default_factory=dict)  # by rank


@final
class Gathers:
    """The gathers of `num_workers` workers that are open."""

    def __init__(self, num_workers: int, notices: Notices) -> None:
        self._num_workers, self._notices = num_workers, notices
        self._open: dict[str, OpenGather] = {}

    def __iter__(self) -> Iterator[tuple[str, OpenGather]]:
        return iter(self._open.items())

    def has_part(self, name: str, rank: int) -> bool:
        """Whether `rank` has contributed to the open gather `name`."""
        return name in self._open and rank in self._open[name].parts

    def excess(self, gather: Gather) -> str:
        """What would be too much if `gather` were added; empty if nothing would."""
        opened = self._open.get(gather.name)
        if opened is None:
            too_many = len(self._open) >= MAX_OPEN_GATHERS
            return f"{MAX_OPEN_GATHERS} gathers are open already" if too_many else ""
        num_bytes = sum(map(len, opened.parts.values())) + len(gather.payload)
        if num_bytes <= MAX_GATHER_BYTES:
            return ""
        return f"its parts have {num_bytes} bytes together; at most {MAX_GATHER_BYTES} are allowed"

    def add(self, rank: int, gather: Gather, now_s: float) -> tuple[bytes, ...] | None:
        """Take one part; all parts in rank order once there are `num_workers`, and it is closed."""
        deadline_s = now_s + gather.timeout_s
        wait = Wait(now_s, deadline_s, *self._notices)
        opened = self._open.setdefault(gather.name, OpenGather(wait))
        opened.wait.deadline_s = min(opened.wait.deadline_s, deadline_s)
        opened.parts[rank] = gather.payload
        if len(opened.parts) < self._num_workers:
            return None
        del self._open[gather.name]
        # Rank order, not arrival order: every worker reads the same list.
        return tuple(opened.parts[rank] for rank in sorted(opened.parts))

    def missing(self, opened: OpenGather) -> list[int]:
        """The ranks that have not contributed."""
        return [rank for rank in range(self._num_workers) if rank not in opened.parts]

    def names_given_by(self, rank: int) -> list[str]:
        """The open gathers that `rank` has contributed to, and waits for."""
        return [name for name, opened in self if rank in opened.parts]

    def waiting_for(self, gone: Collection[int]) -> tuple[str, int, int] | None:
        """The first (name, waiting rank, gone rank) where a part of a gone rank is waited for."""
        for name, opened in self:
            waiting = sorted(rank for rank in opened.parts if rank not in gone)
            missed = [rank for rank in self.missing(opened) if rank in gone]
            if waiting and missed:
                return name, waiting[0], missed[0]
        return None

    def clear(self) -> None:
        """Close all without a result."""
        self._open.clear()


@final
class StopOffers:
    """The stop that `num_workers` workers are agreeing on, if they are."""

    def __init__(self, num_workers: int, notices: Notices) -> None:
        self._num_workers, self._notices = num_workers, notices
        self._offers: dict[int, int] = {}  # by rank
        self.number = 0  # Of the last stop that was asked for.
        self.wait: Wait | None = None  # None: nobody waits.

    def expects(self, rank: int, number: int) -> bool:
        """Whether an offer of `rank` for stop `number` may come now."""
        if self.wait is None:
            return number == self.number + 1
        return number == self.number and rank not in self._offers

    def add(self, rank: int, offer: StopOffer, now_s: float) -> bool:
        """Take an offer that is expected; whether it is the first of this stop."""
        is_first = self.wait is None
        if self.wait is None:
            self.number = offer.number
            self.wait = Wait(now_s, now_s + offer.timeout_s, *self._notices)
        self._offers[rank] = offer.after
        return is_first

    def missing(self, gone: Collection[int] = ()) -> list[int]:
        """The ranks whose offers are waited for."""
        ranks = range(self._num_workers)
        return [rank for rank in ranks if rank not in self._offers and rank not in gone]

    def settle(self, gone: Collection[int]) -> int | None:
        """After how many executions all stop, once everyone who is not gone has offered."""
        if self.wait is None or self.missing(gone):
            return None
        after = max(self._offers.values())
        self.wait = None
        self._offers.clear()
        return after
