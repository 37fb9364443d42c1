"""How a job is doing, as its coordinator knows it. No threads, no sockets, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from poseidon_tf.coordinator.messages import Figures, MemberKey, Role, ServerFigures

if TYPE_CHECKING:  # Only the coordinator's host has one; every member can read a status.
    from poseidon_tf.coordinator.roster import Roster

Presence: TypeAlias = Literal["expected", "here", "left"]
_MOST_NAMES = 3
_NOTICEABLY = 1.1  # How much longer the own part of a step is where a worker is called slow.


class KnownFigures(NamedTuple):
    """What a member has told last, and when, by the coordinator's clock."""

    figures: Figures | ServerFigures
    told_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One member.

    Attributes:
      address: where it is, or is expected; empty if that is not known.
      figures: what a worker has told last, `figures_age_s` seconds ago; None if nothing.
      server_figures: the same of a server.
    """

    role: Role
    rank: int
    address: str
    presence: Presence
    figures: Figures | None = None
    figures_age_s: float = 0.0
    server_figures: ServerFigures | None = None

    @property
    def name(self) -> str:
        """Its role, rank and address."""
        key = str(MemberKey(self.role, self.rank))
        return f"{key} ({self.address})" if self.address else key


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A job.

    Attributes:
      members: workers in rank order, then servers in rank order.
      running_s: seconds since the coordinator has begun to listen.
      waits: who waits for whom to do what, in words.
      failure: why the job has failed; empty if it has not.
      restarts: how often the launcher has started the job anew.
    """

    members: tuple[MemberStatus, ...]
    running_s: float
    waits: tuple[str, ...] = ()
    failure: str = ""
    has_ended: bool = False
    restarts: int = 0

    @property
    def phase(self) -> str:
        """In one word: starting, running, failed or ended."""
        if self.failure:
            return "failed"
        if self.has_ended:
            return "ended"
        is_starting = any(member.presence == "expected" for member in self.members)
        return "starting" if is_starting else "running"

    @property
    def arrivals(self) -> str:
        """How many have arrived, and who has not."""
        missing = [member.name for member in self.members if member.presence == "expected"]
        text = f"{len(self.members) - len(missing)} of {len(self.members)} members are here"
        more = f" and {len(missing) - _MOST_NAMES} more" * (len(missing) > _MOST_NAMES)
        return f"{text}; waiting for {', '.join(missing[:_MOST_NAMES])}{more}" if missing else text

    @property
    def reporting(self) -> list[tuple[MemberStatus, Figures]]:
        """The workers that have told how long their steps take."""
        told = [(member, member.figures) for member in self.members if member.figures is not None]
        return [(member, figures) for member, figures in told if figures.step_s > 0.0]

    @property
    def summing(self) -> list[tuple[MemberStatus, ServerFigures]]:
        """The servers that have told what they sum."""
        told = [(member, member.server_figures) for member in self.members]
        return [(member, figures) for member, figures in told if figures is not None]

    def name_of_worker(self, rank: int) -> str:
        """With its address, if that is known."""
        names = [m.name for m in self.members if (m.role, m.rank) == ("worker", rank)]
        return names[0] if names else str(MemberKey("worker", rank))

    @property
    def slowest(self) -> tuple[MemberStatus, float] | None:
        """The worker with the longest own part of a step, and how many times the fastest's.

        None where no two workers have told, or they are about as fast as each other.
        """
        by_own = sorted(self.reporting, key=lambda each: each[1].own_s)
        if len(by_own) < 2:
            return None
        (_, fastest), (member, slowest) = by_own[0], by_own[-1]
        if fastest.own_s <= 0.0 or slowest.own_s < _NOTICEABLY * fastest.own_s:
            return None
        return member, slowest.own_s / fastest.own_s


def status_of(
    roster: Roster,
    told: Mapping[MemberKey, KnownFigures],
    *,
    now_s: float,
    running_s: float,
    restarts: int,
) -> Status:
    """What `roster` and the figures that members have `told` say at `now_s`."""
    return Status(
        members=tuple(_member(roster, key, told.get(key), now_s) for key in roster.expected),
        running_s=running_s,
        waits=tuple(roster.waits(now_s)),
        failure="" if roster.failure is None else str(roster.failure),
        has_ended=roster.has_ended,
        restarts=restarts,
    )


def _member(
    roster: Roster, key: MemberKey, known: KnownFigures | None, now_s: float
) -> MemberStatus:
    presence: Presence = "expected"
    if roster.has_joined(key):
        presence = "here" if roster.is_present(key) else "left"
    figures = None if known is None else known.figures
    return MemberStatus(
        role=key.role,
        rank=key.rank,
        address=roster.address_of(key),
        presence=presence,
        figures=figures if isinstance(figures, Figures) else None,
        server_figures=figures if isinstance(figures, ServerFigures) else None,
        figures_age_s=0.0 if known is None else max(0.0, now_s - known.told_s),
    )
