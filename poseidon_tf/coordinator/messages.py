"""What members and the coordinator say to each other, as frozen values.

One class per message of coordinator.proto, where each is explained. This file knows neither who
sends a message nor when; `codec` turns them into bytes and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from poseidon_tf.errors import PoseidonError

Role: TypeAlias = Literal["worker", "server"]


class NotNow(PoseidonError):
    """A newcomer is too early: an earlier run of the job is not over. It tries again later."""


class MemberKey(NamedTuple):
    """Names one member of the cluster; keys sort by rank within a role."""

    role: Role
    rank: int

    def __str__(self) -> str:
        return f"worker rank {self.rank}" if self.role == "worker" else f"server {self.rank}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A member introduces itself."""

    role: Role
    rank: int
    address: str
    info: Mapping[str, Any]
    num_workers: int
    num_servers: int

    @property
    def key(self) -> MemberKey:
        return MemberKey(self.role, self.rank)

    @property
    def member(self) -> Member:
        """Its line of the roster."""
        return Member(role=self.role, rank=self.rank, address=self.address, info=self.info)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """One worker's part of the gather `name`; it waits `timeout_s` seconds for the others."""

    name: str
    payload: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class MemberFailure:
    """A member ends the job with an error.

    `kind`: what all members raise; None where the member failed by itself, as by its script.
    """

    text: str
    kind: type[PoseidonError] | None = None


@dataclass(frozen=True, slots=True)
class Goodbye:
    """A member leaves in order after `last_step`; -1 if it took no step.

    `preempted`: it was asked to end before it was done.
    """

    last_step: int
    preempted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOffer:
    """A worker can stop after `after` executions; it waits `timeout_s` seconds for the others.

    The first offer of stop `number` asks for it. Numbers count the stops of a job from 1.
    """

    number: int
    after: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ping:
    """A question for the coordinator's time; `t` comes back unchanged."""

    t: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Something for the other workers, or from a server for all, whom nobody waits for."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a worker is doing. See coordinator.proto; seconds and bytes."""

    steps: int = 0
    steps_per_s: float = 0.0
    step_s: float = 0.0
    own_s: float = 0.0
    waiting_s: float = 0.0
    communicating_s: float = 0.0
    total_waiting_s: float = 0.0
    total_communicating_s: float = 0.0
    ps_bytes: int = 0
    sfb_bytes: int = 0
    rows_bytes: int = 0
    ring_all_reduce_bytes: int = 0
    reconnections: int = 0
    oldest_wait_s: float = 0.0
    waits_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """How a server is doing. Totals are since it began; "lately" is in the last two seconds.

    Attributes:
      sums: that have left, in all.
      received_bytes, sent_bytes: of contributions and sums, over the network, in all.
      summing_s: seconds in which it took contributions and added them, in all.
      sums_per_s, summing: sums in a second, and the part of the time in which it added, lately.
      last_rank: the worker whose contribution sums waited for longest, lately; -1 for none.
      last_part: the part of the sums, from 0 to 1, that had its contribution last.
      late_s: how many seconds after the one before it came in those, in the mean.
      oldest_wait_s: for how long the oldest unfinished sum has waited.
      waits_for: for whose contribution to what, in words; empty where there is none.
    """

    sums: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    summing_s: float = 0.0
    sums_per_s: float = 0.0
    summing: float = 0.0
    last_rank: int = -1
    last_part: float = 0.0
    late_s: float = 0.0
    oldest_wait_s: float = 0.0
    waits_for: str = ""


Told: TypeAlias = Announce | Figures | ServerFigures  # What nobody waits for.
MemberMessage: TypeAlias = Join | Gather | MemberFailure | Goodbye | Ping | StopOffer | Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One line of the roster."""

    role: Role
    rank: int
    address: str
    info: Mapping[str, Any]

    @property
    def key(self) -> MemberKey:
        return MemberKey(self.role, self.rank)

    @property
    def identity(self) -> str:
        """What tells it from a process of another run at the same address; "" if it has none."""
        return str(self.info.get("identity", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterView:
    """The complete cluster: workers in rank order, then servers in rank order."""

    members: tuple[Member, ...]
    data_seed: int
    incarnation: int

    @property
    def workers(self) -> list[Member]:
        return [member for member in self.members if member.role == "worker"]

    @property
    def servers(self) -> list[Member]:
        return [member for member in self.members if member.role == "server"]

    @property
    def worker_addresses(self) -> list[str]:
        return [member.address for member in self.workers]

    @property
    def server_addresses(self) -> list[str]:
        return [member.address for member in self.servers]


@dataclass(frozen=True, slots=True)
class Gathered:
    """All parts of the gather `name`, in rank order."""

    name: str
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something for the log; it changes nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The job has failed, or a newcomer is refused; `error` is what its receiver raises."""

    error: PoseidonError

    @property
    def text(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A worker said goodbye after `last_step`."""

    role: Role
    rank: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Ended:
    """All workers said goodbye; `preempted`: some of them before they were done."""

    preempted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """The coordinator's time when it answered the ping that said `t_echo`."""

    t_echo: float
    coordinator_time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Another worker asks for stop `number` and offers `after`."""

    number: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAgreed:
    """All workers stop after `after` executions."""

    number: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the member with `rank` announced: a worker or a server, as the topic has it."""

    topic: str
    rank: int
    payload: bytes


CoordinatorMessage: TypeAlias = (
    RosterView
    | Gathered
    | Notice
    | Failure
    | Left
    | Ended
    | Pong
    | StopAsked
    | StopAgreed
    | Announced
)
