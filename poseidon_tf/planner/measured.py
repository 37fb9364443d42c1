"""What a job's machines can do, as its workers have measured it together: figures for `machines`.

Every worker measures with all others at once, as a step does, so each way carries its part of what
the links do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, NamedTuple

from ..errors import ProtocolError
from .machines import Host, Link, Machines

SLOW = 0.5
"""A way is slow that carries less than this part of what is usual. On a busy machine equal ways
differ by a third."""
SLOW_LINK = 0.7
"""Links of workers that differ by less than this are equal for the model of a step."""


class Way(NamedTuple):
    """Between a worker and another member.

    Attributes:
        round_trip_s: of a question and its answer, over gRPC.
        bits_per_s: what came over it: factors from another worker, or sums from a server, which had
            to have been there before.
    """

    round_trip_s: float
    bits_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one worker has measured.

    Attributes:
        host: the machine it is on.
        cores: of that machine, that this process may use.
        servers: by server.
        workers: by rank; its own place has zeros.
        own_server: the server on its own host that it started; None if it has none.
        sum_s: from the push of one number to its sum, the slowest server's.
        sums_bits_per_s: through its link, each way, in sums over all servers.
        message_s, byte_s, sum_byte_s: CPU seconds, see `Host`.
        flops_per_s: at which its device multiplies; None if that was not asked for.
    """

    host: str
    cores: int
    servers: tuple[Way, ...]
    workers: tuple[Way, ...]
    own_server: int | None
    sum_s: float
    sums_bits_per_s: float
    message_s: float
    byte_s: float
    sum_byte_s: float
    flops_per_s: float | None = None

    def to_json(self) -> str:
        """For the other workers."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Seen:
        """Read what `to_json` wrote; anything else is a `ProtocolError`."""
        try:
            data = json.loads(text)
            host, cores, own_server = data["host"], data["cores"], data["own_server"]
            if type(host) is not str or type(cores) is not int or cores < 1:
                raise ValueError(f"{cores!r} cores of {host!r}")
            if own_server is not None and type(own_server) is not int:
                raise ValueError(f"server {own_server!r}")
            flops_per_s = data["flops_per_s"]
            return cls(
                host=host,
                cores=cores,
                servers=tuple(Way(*map(_figure, each)) for each in data["servers"]),
                workers=tuple(Way(*map(_figure, each)) for each in data["workers"]),
                own_server=own_server,
                sum_s=_figure(data["sum_s"]),
                sums_bits_per_s=_figure(data["sums_bits_per_s"]),
                message_s=_figure(data["message_s"]),
                byte_s=_figure(data["byte_s"]),
                sum_byte_s=_figure(data["sum_byte_s"]),
                flops_per_s=None if flops_per_s is None else _figure(flops_per_s),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
            raise ProtocolError(f"not a worker's figures: {text[:80]!r} ({failure!r})") from failure


class SlowWay(NamedTuple):
    """A way that carries much less than others do.

    Attributes:
        sender, receiver: such as ``"worker 2"``; a server is the sender of its sums.
    """

    sender: str
    receiver: str
    bits_per_s: float
    usual_bits_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What all workers have measured, the same on each of them.

    Attributes:
        seen: by rank.
        took_s: by this worker's clock.
    """

    seen: tuple[Seen, ...]
    took_s: float

    def renewed(self, links: Measured) -> Measured:
        """What was measured again of the links, beside what these are of the processors."""
        seen = [
            replace(
                own,
                servers=new.servers,
                workers=new.workers,
                sum_s=new.sum_s,
                sums_bits_per_s=new.sums_bits_per_s,
            )
            for own, new in zip(self.seen, links.seen, strict=True)
        ]
        return Measured(seen=tuple(seen), took_s=links.took_s)

    def link_bits_per_s(self, rank: int) -> float:
        """What the link of this worker's host carries at least one way, whichever way is more."""
        came = _together(way.bits_per_s for way in self.seen[rank].workers)
        left = _together(each.workers[rank].bits_per_s for each in self.seen)
        return max(came, left, self.seen[rank].sums_bits_per_s)

    def slow_ways(self) -> list[SlowWay]:
        """Those that carry less than half of what is usual among workers, or from servers."""
        ranks = range(len(self.seen))
        between = [
            (f"worker {sender}", f"worker {receiver}", self.seen[receiver].workers[sender])
            for sender in ranks
            for receiver in ranks
            if sender != receiver
        ]
        back = [
            (f"server {index}", f"worker {rank}", way)
            for index in range(len(self.seen[0].servers))
            for rank in ranks
            for way in [self.seen[rank].servers[index]]
            if index != self.seen[rank].own_server  # That shares memory with its worker.
        ]
        found = []
        for kind in (between, back):
            usual = _usual(way.bits_per_s for _, _, way in kind)
            found += [
                SlowWay(sender, receiver, way.bits_per_s, usual)
                for sender, receiver, way in kind
                if way.bits_per_s < SLOW * usual
            ]
        return found

    def machines(self, *, devices: int = 1) -> Machines:
        """For the model of a step; of figures that workers share it takes rank 0's.

        Args:
            devices: G, of one worker.
        """
        first = self.seen[0]
        rates = [self.link_bits_per_s(rank) for rank in range(len(self.seen))]
        # A sum of one number has two latencies, and a message that is sent and received on each.
        latency_s = max(0.0, first.sum_s / 2 - 2 * first.message_s)
        usual = _usual(rates)

        def link(bits_per_s: float) -> Link:
            return Link(bits_per_s=bits_per_s, latency_s=latency_s)

        speeds = [each.flops_per_s for each in self.seen if each.flops_per_s is not None]
        return Machines(
            link=link(usual),
            slow_worker=link(min(rates)) if min(rates) < SLOW_LINK * usual else None,
            slow_server=self._slow_server(usual, latency_s),
            host=Host(
                cores=min(self._cores(each) for each in self.seen),
                message_s=first.message_s,
                byte_s=first.byte_s,
                sum_byte_s=first.sum_byte_s,
            ),
            devices=devices,
            flops_per_s=min(speeds, default=None),
        )

    def _cores(self, of: Seen) -> float:
        """For one worker of that host; with its server, if it has one."""
        return of.cores / sum(each.host == of.host for each in self.seen)

    def _slow_server(self, bits_per_s: float, latency_s: float) -> Link | None:
        """The slowest server's, if its sums come much more slowly than those of most others."""
        rates = []
        for index in range(len(self.seen[0].servers)):
            others = [each for each in self.seen if each.own_server != index]
            if others:
                rates.append(median(each.servers[index].bits_per_s for each in others))
        usual = _usual(rates)
        if not rates or min(rates) >= SLOW * usual:
            return None
        return Link(bits_per_s=bits_per_s * min(rates) / usual, latency_s=latency_s)


def joined(texts: Sequence[str], *, num_servers: int, took_s: float) -> Measured:
    """What all workers have said of themselves, by rank.

    Raises:
        ProtocolError: that is not what workers of such a job can have measured.
    """
    seen = tuple(Seen.from_json(text) for text in texts)
    for rank, each in enumerate(seen):
        if (len(each.workers), len(each.servers)) != (len(seen), num_servers):
            raise ProtocolError(
                f"rank {rank} has measured {len(each.workers)} workers and {len(each.servers)} "
                f"servers; there are {len(seen)} and {num_servers}"
            )
    return Measured(seen=seen, took_s=took_s)


def _together(rates: Iterable[float]) -> float:
    """What equal transfers that began together have carried, each at its own rate until its end.

    When the k-th of them was through, k times its bytes had been carried. Their sum would be too
    much: one that is left alone gets the whole link.
    """
    in_order = sorted(rates, reverse=True)
    return max(at * rate for at, rate in enumerate(in_order, start=1))


def _usual(rates: Iterable[float]) -> float:
    """What three quarters do not exceed: a member with a slow link may make half of all ways slow.

    0 if there are none.
    """
    in_order = sorted(rates)
    return in_order[min(len(in_order) - 1, len(in_order) * 3 // 4)] if in_order else 0.0


def _figure(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} where a number belongs")
    if not 0 <= value < math.inf:
        raise ValueError(f"{value!r:.40} where a number from 0 on belongs")
    return float(value)
