"""What a worker's routes and streams have carried, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final, get_args

from poseidon_tf.session.session import Route, Session
from poseidon_tf.session.statistics import PayloadStatistics, PeerStatistics, Statistics
from poseidon_tf.session.syncers import ServerSyncer
from poseidon_tf.transport.base import Traffic

Purpose = Literal["ps", "sfb", "rows", "all_reduce"]


@final
@dataclass(frozen=True, slots=True)
class Account:
    """A route, what it is for, and the bytes of its gradients if they are sent whole."""

    purpose: Purpose
    route: Route
    dense_bytes: int

    def payload(self) -> PayloadStatistics:
        """What it has carried."""
        syncer = self.route.syncer
        sent, received = syncer.payload_bytes()
        network = sent
        if isinstance(syncer, ServerSyncer):  # What a server sends has no other account.
            network = max(0, sent + received - syncer.shared_bytes)
        return PayloadStatistics(
            sent_bytes=sent,
            received_bytes=received,
            exchanges=self.route.num_pushes,
            network_bytes=network,
        )

    def ring_bytes(self, num_workers: int) -> int:
        """What a worker would have sent of it if a ring had summed it, or gathered its rows."""
        if self.purpose == "rows":
            return self.route.syncer.payload_bytes()[0]
        if self.purpose == "all_reduce":
            return 0
        return 2 * (num_workers - 1) * self.dense_bytes * self.route.num_pushes // num_workers


def statistics_of(
    accounts: Iterable[Account],
    *,
    session: Session,
    num_workers: int,
    traffic_of_servers: Sequence[Sequence[Traffic]],
    own_server: int | None,
    traffic_of_workers: Iterable[Traffic],
) -> Statistics:
    """A worker's statistics.

    Args:
      traffic_of_servers: of its streams to each server.
      own_server: which of these is its own.
    """
    accounts = list(accounts)
    payloads = {purpose: PayloadStatistics() for purpose in get_args(Purpose)}
    for account in accounts:
        payloads[account.purpose] = _added(payloads[account.purpose], account.payload())
    others = [each for at, each in enumerate(traffic_of_servers) if at != own_server]
    own = [each for at, each in enumerate(traffic_of_servers) if at == own_server]
    return Statistics(
        steps=session.steps,
        ps=payloads["ps"],
        sfb=payloads["sfb"],
        rows=payloads["rows"],
        all_reduce=payloads["all_reduce"],
        servers=PeerStatistics.of(stream for each in others for stream in each),
        own_server=PeerStatistics.of(stream for each in own for stream in each),
        workers=PeerStatistics.of(traffic_of_workers),
        waiting_s=session.waited_s,
        communicating_s=session.communicated_s,
        step_times=session.step_times(),
        ring_all_reduce_bytes=sum(account.ring_bytes(num_workers) for account in accounts),
    )


def _added(one: PayloadStatistics, other: PayloadStatistics) -> PayloadStatistics:
    return replace(
        one,
        sent_bytes=one.sent_bytes + other.sent_bytes,
        received_bytes=one.received_bytes + other.received_bytes,
        exchanges=one.exchanges + other.exchanges,
        network_bytes=one.network_bytes + other.network_bytes,
    )
