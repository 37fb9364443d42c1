"""Who is here, who is waited for, and how the job ends. No threads, no sockets, no clock.

Rule 1: every event is a method; it returns the messages that follow from it, each with the member
        that it is for. Time comes in as `now_s`, by any clock that does not go back.
Rule 2: an event that the protocol does not allow raises and changes nothing.
Rule 3: the first failure is the job's failure: it is kept, and later ones change nothing.
Rule 4: this file does not know how an event arrived or how a message leaves.
Rule 5: a run of the job begins when everyone has arrived. Who is lost before that is forgotten and
        may come again. Who comes after that is of the next run, and is told to wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, final

from poseidon_tf.coordinator.expected import check_fits, expected_addresses
from poseidon_tf.coordinator.messages import (
    Announce,
    Announced,
    CoordinatorMessage,
    Ended,
    Failure,
    Gather,
    Gathered,
    Join,
    Left,
    Member,
    MemberFailure,
    MemberKey,
    Notice,
    NotNow,
    Role,
    RosterView,
    StopAgreed,
    StopAsked,
    StopOffer,
)
from poseidon_tf.coordinator.waiting import Gathers, Notices, OpenGather, StopOffers, Wait
from poseidon_tf.errors import (
    ConfigError,
    DriftError,
    MemberError,
    PeerLost,
    PlanError,
    PoseidonError,
    ProtocolError,
    StartTimeout,
    StepTimeout,
)

Action: TypeAlias = tuple[MemberKey, CoordinatorMessage]

# The worker whose process hosts the roster. Notices go to it even before it has joined.
HOST = MemberKey("worker", 0)
# Errors of what workers have shown each other: whoever is the first to report one does not matter.
_FOUND_BY_ALL = (ConfigError, PlanError, DriftError)


@final
class Roster:
    """The members of one job, from the first arrival to the last goodbye.

    Args:
      num_workers, num_servers: P1 and P2.
      worker_addresses, server_addresses: where members are expected, in rank order, to name the
        missing ones; () or "" where unknown. Servers without address live on their workers' hosts.
      data_seed, incarnation: handed to every member with the complete roster.
      start_timeout_s: seconds after `started_s` until which all members must have joined.
      notices: when it is worth a notice that workers wait for each other.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        num_servers: int,
        worker_addresses: Sequence[str] = (),
        server_addresses: Sequence[str] = (),
        data_seed: int,
        incarnation: int,
        start_timeout_s: float,
        started_s: float,
        notices: Notices = Notices(first_s=30.0, repeat_s=60.0),
    ) -> None:
        self._sizes: dict[Role, int] = {"worker": num_workers, "server": num_servers}
        self._addresses = expected_addresses(self._sizes, worker_addresses, server_addresses)
        self._expected = list(self._addresses)
        self._data_seed = data_seed
        self._incarnation = incarnation
        self._start = Wait(started_s, started_s + start_timeout_s)
        self._members: dict[MemberKey, Member] = {}  # of this run: who has joined
        self._present: set[MemberKey] = set()
        self._last_steps: dict[MemberKey, int] = {}  # of those who said goodbye
        self._is_preempted = False
        self._gathers = Gathers(num_workers, notices)
        self._stop = StopOffers(num_workers, notices)
        self._failure: PoseidonError | None = None

    @property
    def failure(self) -> PoseidonError | None:
        """Why the job failed, if it did."""
        return self._failure

    @property
    def is_complete(self) -> bool:
        """Whether every member has joined."""
        return len(self._members) == len(self._expected)

    @property
    def has_ended(self) -> bool:
        """Whether all workers said goodbye."""
        return len(self._last_steps) == self._sizes["worker"]

    @property
    def _gone(self) -> set[int]:
        """The ranks of workers that said goodbye."""
        return {key.rank for key in self._last_steps}

    @property
    def expected(self) -> Sequence[MemberKey]:
        """Who belongs to the job: workers in rank order, then servers."""
        return self._expected

    def address_of(self, member: MemberKey) -> str:
        """Where it is, or is expected; empty if that is not known."""
        joined = self._members.get(member)
        return joined.address if joined is not None else self._addresses.get(member, "")

    def has_joined(self, member: MemberKey) -> bool:
        """Whether `member` has joined this run, gone or not."""
        return member in self._members

    def is_present(self, member: MemberKey) -> bool:
        """Whether `member` has joined, and neither left nor been lost."""
        return member in self._present

    def describe(self, member: MemberKey) -> str:
        """The member with the address at which it is, or is expected, if that is known."""
        address = self.address_of(member)
        return f"{member} ({address})" if address else str(member)

    def join(self, join: Join) -> list[Action]:
        """A newcomer; the last one completes the roster.

        Raises:
          ConfigError: it does not fit this cluster.
          NotNow: this run of the job has begun without it; the next one may be its. Or it has
            arrived already, by a connection that only itself knows to be broken.
        """
        if self._failure is not None:
            raise self._not_now(join, f"has failed ({self._failure})")
        if self.has_ended:
            raise self._not_now(join, "has ended")
        check_fits(join, self._sizes)
        if self.is_complete:
            address = self._members[join.key].address
            raise self._not_now(join, f"has that rank already, at {address}")
        member = join.member
        if join.key in self._members:
            if member.identity and member.identity == self._members[join.key].identity:
                raise NotNow(
                    f"{join.key} ({join.address}) comes again, and the connection by which it has "
                    "arrived is not given up yet"
                )
            raise ConfigError(
                f"{join.key} ({join.address}): that rank is taken by "
                f"{self._members[join.key].address}; "
                "two processes were given the same task, in TF_CONFIG or by what else gives ranks"
            )
        self._members[join.key] = member
        self._present.add(join.key)
        if not self.is_complete:
            return []
        members = tuple(self._members[key] for key in self._expected)
        return self._to_all(
            RosterView(members=members, data_seed=self._data_seed, incarnation=self._incarnation)
        )

    def _not_now(self, join: Join, state: str) -> NotNow:
        return NotNow(
            f"{join.key} ({join.address}) is not of the run of the job that worker rank 0 hosts: "
            f"that one {state}; the next run begins when its worker rank 0 has started"
        )

    def gather(self, member: MemberKey, gather: Gather, now_s: float) -> list[Action]:
        """One worker's part; the last one hands everyone's to all. Raises ProtocolError."""
        self._check_present(member)
        if self._failure is not None:
            return [(member, Failure(self._failure))]
        if not self.is_complete or member.role != "worker":
            raise ProtocolError(
                f"{self.describe(member)} may not gather {gather.name!r}: only workers may, "
                "and only when the roster is complete"
            )
        if self._gathers.has_part(gather.name, member.rank):
            raise ProtocolError(f"{member} contributed twice to gather {gather.name!r}")
        if excess := self._gathers.excess(gather):
            raise ProtocolError(f"{member}, gather {gather.name!r}: {excess}")
        payloads = self._gathers.add(member.rank, gather, now_s)
        if payloads is not None:
            return self._to_all(Gathered(gather.name, payloads), role="worker")
        return self._fail_if_a_leaver_is_missed()

    def offer_stop(self, member: MemberKey, offer: StopOffer, now_s: float) -> list[Action]:
        """One worker can stop; the first one asks the others, the last one settles it for all."""
        self._check_present(member)
        if self._failure is not None:
            return [(member, Failure(self._failure))]
        if not self.is_complete or member.role != "worker":
            raise ProtocolError(
                f"{self.describe(member)} may not stop the job: only workers may, and only when "
                "the roster is complete"
            )
        if not self._stop.expects(member.rank, offer.number):
            raise ProtocolError(f"{member} offers stop {offer.number} twice, or out of turn")
        actions: list[Action] = []
        if self._stop.add(member.rank, offer, now_s):
            asked = StopAsked(number=offer.number, after=offer.after)
            actions = [each for each in self._to_all(asked, role="worker") if each[0] != member]
        return actions + self._settle_stop()

    def _settle_stop(self) -> list[Action]:
        # Who has left begins nothing more: nobody waits for its offer.
        after = self._stop.settle(self._gone)
        if after is None:
            return []
        return self._to_all(StopAgreed(number=self._stop.number, after=after), role="worker")

    def announce(self, member: MemberKey, announce: Announce) -> list[Action]:
        """One member tells the workers something. Raises ProtocolError."""
        self._check_present(member)
        if self._failure is not None:
            return [(member, Failure(self._failure))]
        if not self.is_complete:
            raise ProtocolError(
                f"{self.describe(member)} may not announce {announce.topic!r} before the roster "
                "is complete"
            )
        announced = Announced(topic=announce.topic, rank=member.rank, payload=announce.payload)
        return [each for each in self._to_all(announced, role="worker") if each[0] != member]

    def goodbye(
        self, member: MemberKey, last_step: int, *, preempted: bool = False
    ) -> list[Action]:
        """A member leaves in order, `preempted` before it is done; the last worker ends the job."""
        self._check_present(member)
        self._present.remove(member)
        if self._failure is not None or self.has_ended:
            return []
        if not self.is_complete or member.role == "server":
            unready = "all workers were done" if self.is_complete else "everyone had arrived"
            return self._fail(MemberError(f"{self.describe(member)} left before {unready}"))
        self._last_steps[member] = last_step
        self._is_preempted |= preempted
        if failed := self._fail_if_a_leaver_is_missed():
            return failed
        left = self._to_all(Left(role=member.role, rank=member.rank, last_step=last_step))
        left += self._settle_stop()
        return left + self._to_all(Ended(self._is_preempted)) if self.has_ended else left

    def _fail_if_a_leaver_is_missed(self) -> list[Action]:
        missed = self._gathers.waiting_for(self._gone)
        if missed is None:
            return []
        name, waiting_rank, rank = missed
        leaver = MemberKey("worker", rank)
        last_step = self._last_steps[leaver]
        when = f"after step {last_step}" if last_step >= 0 else "before its first step"
        return self._fail(
            MemberError(
                f"{self.describe(leaver)} left {when} while rank {waiting_rank} waits for it to "
                f"{name}"
            )
        )

    def lost(self, member: MemberKey, reason: str) -> list[Action]:
        """A member's connection has closed. After its goodbye, or the end, that is in order.

        Before everyone has arrived it is forgotten: its replacement may come.
        """
        if member not in self._present:
            return []
        self._present.remove(member)
        if self.has_ended:
            return []
        if not self.is_complete and self._failure is None:
            name = self.describe(member)
            del self._members[member]
            return self._notice(
                f"{name} was lost before everyone had arrived ({reason}); waiting for another one"
            )
        return self._fail(
            PeerLost(f"{self.describe(member)} closed its connection without a goodbye: {reason}")
        )

    def fail(self, member: MemberKey, failure: MemberFailure) -> list[Action]:
        """A member reports an error that ends the job for all, itself included."""
        self._check_present(member)
        kind, who = failure.kind, self.describe(member)
        if kind is None:
            return self._fail(MemberError(f"{who} failed: {failure.text}"))
        # It may be another member's fault; where the text does not say who speaks, this does.
        is_clear = issubclass(kind, _FOUND_BY_ALL) or who in failure.text
        speaker = "" if is_clear else f"{who} reports: "
        return self._fail(kind(f"{speaker}{failure.text}"))

    def tick(self, now_s: float) -> list[Action]:
        """Time has passed: say who is waited for, or give up."""
        if self._failure is not None or self.has_ended:
            return []
        if not self.is_complete:
            return self._tick_start(now_s)
        actions: list[Action] = []
        for name, opened in self._gathers:
            text = self._describe_gather(name, opened, now_s)
            if opened.wait.is_over(now_s):
                return self._fail(StepTimeout(text))
            if opened.wait.take_notice(now_s):
                actions += self._notice(text)
        if self._stop.wait is not None:
            text = self._describe_stop(self._stop.wait, now_s)
            if self._stop.wait.is_over(now_s):
                return self._fail(StepTimeout(text))
            if self._stop.wait.take_notice(now_s):
                actions += self._notice(text)
        return actions

    def waits(self, now_s: float) -> list[str]:
        """Who waits for whom to do what, in words."""
        if self._failure is not None or self.has_ended:
            return []
        if not self.is_complete:
            return [self._describe_start(now_s)]
        texts = [self._describe_gather(name, opened, now_s) for name, opened in self._gathers]
        stop = self._stop.wait
        return [*texts, *([self._describe_stop(stop, now_s)] if stop is not None else [])]

    def _describe_stop(self, wait: Wait, now_s: float) -> str:
        missing = self._list(MemberKey("worker", r) for r in self._stop.missing(self._gone))
        return (
            f"all workers are asked to stop together; that waits for {missing} to end a step, "
            f"or to call stop_requested: {wait.progress(now_s)}"
        )

    def _describe_gather(self, name: str, opened: OpenGather, now_s: float) -> str:
        """Who waits for whom, what those have to do, and what they wait for instead."""
        first, *others = (self.describe(MemberKey("worker", rank)) for rank in sorted(opened.parts))
        waiting = f"{first} and {len(others)} more wait" if others else f"{first} waits"
        missing = self._gathers.missing(opened)
        text = (
            f"{waiting} for {self._list(MemberKey('worker', rank) for rank in missing)} to {name}"
        )
        text += f": {opened.wait.progress(now_s)}"
        for rank in missing:
            for other in self._gathers.names_given_by(rank):
                who = self.describe(MemberKey("worker", rank))
                text += f"; {who} waits for all workers to {other}"
        return text

    def _describe_start(self, now_s: float) -> str:
        missing = self._list(key for key in self._expected if key not in self._members)
        return f"waiting for {missing}: {self._start.progress(now_s)}"

    def _tick_start(self, now_s: float) -> list[Action]:
        text = self._describe_start(now_s)
        if self._start.is_over(now_s):
            arrived = f"{len(self._members)} of {len(self._expected)} members arrived"
            return self._fail(StartTimeout(f"{arrived}; {text}"))
        return self._notice(text) if self._start.take_notice(now_s) else []

    def _check_present(self, member: MemberKey) -> None:
        if member not in self._present:
            raise ProtocolError(f"{self.describe(member)} is not here, or no longer")

    def _fail(self, error: PoseidonError) -> list[Action]:
        if self._failure is not None:
            return []
        self._failure = error
        self._gathers.clear()
        return self._to_all(Failure(error))

    def _notice(self, text: str) -> list[Action]:
        """For the logs of the workers; before all are here, of the servers as well."""
        keys = {key for key in self._present if key.role == "worker" or not self.is_complete}
        return [(key, Notice(text)) for key in sorted(keys | {HOST})]

    def _to_all(self, message: CoordinatorMessage, *, role: Role | None = None) -> list[Action]:
        return [(key, message) for key in sorted(self._present) if role in (None, key.role)]

    def _list(self, members: Iterable[MemberKey]) -> str:
        return ", ".join(self.describe(member) for member in members)
