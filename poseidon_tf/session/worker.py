"""A worker among the others: opens routes to servers and peers, agrees with them, and leaves.

It is handed connected parts and owns none of their threads; `launch` builds and ends them.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, final

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.messages import Member, StopOffer
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import PeerLost, PoseidonError, ProtocolError
from poseidon_tf.kv.client import ServerLink
from poseidon_tf.kv.service import streams_per_server
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.planner import KVPair
from poseidon_tf.session import accounts, owing
from poseidon_tf.session.accounts import Account, Purpose
from poseidon_tf.session.data_ends import DataEnds
from poseidon_tf.session.expected_sums import ExpectedSums
from poseidon_tf.session.gathers import Gathers, Take
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.preemption import TOPIC as _ASKED_TO_END
from poseidon_tf.session.preemption import Preemption
from poseidon_tf.session.replicas import ReplicaJoin, stacking, summing
from poseidon_tf.session.session import Deliver, Route, Session
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.session.syncers import Done, FactorSyncer, Pair, ServerSyncer, Sum
from poseidon_tf.sfb.exchange import CompleteSet
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.dtypes import Array, wire_dtype

_log = logging.getLogger("poseidon_tf")
# What travels from worker to worker, array by array.
_CONTENTS: Mapping[str, Sequence[str]] = {
    "sfb": (
        "factor U (the layer's input) of the gradient",
        "factor V (the gradient of the layer's output) of the gradient",
        "the gradient, sent whole,",
    ),
    "rows": ("the row numbers of the gradient", "the gradient"),
}
_DATA = "data"  # The topic under which workers announce where their data ends.


@final
class Worker:
    """Rank `rank` of `num_workers`.

    Args:
      own_server: index of the server on this worker's own host, if it started one.
      names: of all workers.
      num_replicas: G, how many replicas of the model this worker has.
      memory: shared with that server, if it is.
    """

    def __init__(
        self,
        *,
        rank: int,
        num_workers: int,
        session: Session,
        coordinator: CoordinatorClient,
        factors: FactorService,
        names: WorkerNames,
        own_server: int | None,
        memory: SharedMemory | None = None,
        num_replicas: int = 1,
    ) -> None:
        self.rank, self.num_workers, self.num_replicas = rank, num_workers, num_replicas
        self.names = names
        self.session, self.coordinator, self.factors = session, coordinator, factors
        self.own_server, self._memory = own_server, memory
        self._links: list[ServerLink] = []
        self._expected: list[ExpectedSums] = []  # By server, as the links are.
        self._key_numbers: dict[tuple[int, KeySpec], int] = {}  # By server.
        self._factor_syncers: dict[int, FactorSyncer] = {}
        self._routes: list[Account] = []
        self._gathers = Gathers(num_workers=num_workers)
        self.preemption = Preemption()
        self.data_ends = DataEnds(
            num_workers=num_workers,
            rank=rank,
            announce=lambda message: coordinator.announce(_DATA, message),
            job_failure=session.job_failure,
            waiting_for=session.waiting_for,
            names=names,
            timeout_s=session.deadlines.step_s,
        )
        session.on_left.append(self.data_ends.left)

    @property
    def links(self) -> Sequence[ServerLink]:
        """To the servers."""
        return self._links

    def connect(
        self, servers: Sequence[Member], *, settings: ConnectionSettings, timeout_s: float
    ) -> None:
        """Open the streams to the servers.

        Raises:
          StartTimeout: a server did not answer in `timeout_s` seconds.
          ConfigError: a server has another token, or its certificate is wrong.
        """
        for index, server in enumerate(servers):
            expected = ExpectedSums(f"server {index} ({server.address})")
            self._expected.append(expected)
            self._links.append(
                ServerLink(
                    server.address,
                    rank=self.rank,
                    identity=server.identity,
                    on_sum=expected.receive,
                    on_lost=self._loss_reporter(expected.who),
                    on_sent=self._sent_recorder(index),
                    room=expected.room,
                    num_streams=streams_per_server(len(servers)),
                    memory=self._memory if index == self.own_server else None,
                    settings=settings,
                )
            )
        for link in self._links:  # All have begun to connect.
            link.reach(timeout_s=timeout_s, over=self.session.job_failure.over)

    def announce_sums(self, sums: Sequence[Sum]) -> None:
        """Tell each server once of all its parts of these sums; opening them asks nobody then.

        Raises:
          PoseidonError: a server refused, or did not answer.
        """
        by_server: dict[int, list[KeySpec]] = {}
        for each in sums:
            for pair, spec in zip(each.pairs, each.keys(), strict=True):
                if (pair.server, spec) not in self._key_numbers:
                    by_server.setdefault(pair.server, []).append(spec)
        for server, specs in by_server.items():
            try:
                numbers = self._links[server].register(
                    specs, timeout_s=self.session.deadlines.start_s
                )
            except PeerLost as failure:
                self.session.lost(None, failure, who=self._expected[server].who)
                raise self.session.job_failure.outcome(failure) from failure
            self._key_numbers |= {
                (server, spec): number for spec, number in zip(specs, numbers, strict=True)
            }

    def open_sum(
        self,
        name: str,
        dtype: str,
        pairs: Sequence[KVPair] | None,
        *,
        num_elements: int,
        purpose: Purpose,
        variables: Sequence[str] = (),
        priority: int = 0,
        first_step: int = 0,
        deliver: Deliver,
    ) -> Route:
        """A route through the servers.

        Args:
          name: job-wide; every worker opens the same.
          pairs: of the unit that it is; None lets the name choose one server.
          num_elements: of the whole; 0 if it may change from step to step.
          variables: whose gradients are its arrays, one each; () if they are none.
          priority: the same on all workers; 0 for what is waited for where it is pushed.
          first_step: of the training, from which on it is used; the same on all workers.
        """
        if pairs is None:
            server = zlib.crc32(name.encode()) % len(self._links)
            pairs = [KVPair(unit=0, index=0, offset=0, length=num_elements, server=server)]

        def done(step: int, results: list[Array]) -> None:
            self.session.done(route, step, results)

        syncer = self.open_server_syncer(Sum(name, dtype, pairs, priority, first_step), done)
        join = ReplicaJoin(self.num_replicas, summing(dtype), first_step=first_step)
        route = Route(
            self.session,
            syncer,
            deliver,
            join,
            variables=variables,
            contents=[f"the gradient of {variable!r}" for variable in variables],
            is_gradient=purpose != "all_reduce",
            first_step=first_step,
        )
        dense_bytes = num_elements * wire_dtype(dtype).itemsize
        self._note(Account(purpose, route, dense_bytes=dense_bytes))
        return route

    def open_server_syncer(self, of: Sum, done: Done) -> ServerSyncer:
        """The same without a route: who sends by it counts its own steps, and waits by itself."""
        itemsize = wire_dtype(of.dtype).itemsize
        self.announce_sums([of])
        placed = [
            Pair(
                self._links[pair.server],
                self._key_numbers[pair.server, spec],
                pair.offset * itemsize,
                pair.length * itemsize,
            )
            for pair, spec in zip(of.pairs, of.keys(), strict=True)
        ]
        syncer = ServerSyncer(of.name, of.dtype, placed, done, priority=of.priority)
        for planned, pair in zip(of.pairs, placed, strict=True):
            self._expected[planned.server].add(syncer, pair)
        return syncer

    def open_factors(
        self,
        key: int,
        spec: RowSpec,
        *,
        purpose: Literal["sfb", "rows"] = "sfb",
        variables: Sequence[str] = (),
        priority: int = 0,
        first_step: int = 0,
        deliver: Deliver,
    ) -> Route:
        """A route from worker to worker for the factors of a kernel, or for rows of a table.

        Args:
          key: job-wide; every worker opens the same.
          variables: the kernel, and the biases whose gradients its factors give; or the table.
          priority, first_step: as for `open_sum`.
        """

        def done(step: int, results: list[Array]) -> None:
            self.session.done(route, step, results)

        syncer = FactorSyncer(
            spec,
            key=key,
            num_peers=self.num_workers - 1,
            factors=self.factors,
            done=done,
            on_sent=lambda step: self.session.recorder.event("sent", spec.name, step),
            priority=priority,
            first_step=first_step,
        )
        route = Route(
            self.session,
            syncer,
            deliver,
            ReplicaJoin(self.num_replicas, stacking, first_step=first_step),
            variables=variables,
            contents=[f"{what} of {spec.name!r}" for what in _CONTENTS[purpose]],
            first_step=first_step,
        )
        self.add_factor_syncer(key, syncer)
        self._note(Account(purpose, route, dense_bytes=spec.dense_bytes))
        return route

    def add_factor_syncer(self, key: int, syncer: FactorSyncer) -> None:
        """Sets of this key are the syncer's from now on, with a route or without."""
        self._factor_syncers[key] = syncer

    def close_syncer(self, syncer: ServerSyncer) -> None:
        """Nothing comes for it any more; its memory is free."""
        for expected in self._expected:
            expected.drop(syncer)
        syncer.release()

    def _note(self, account: Account) -> None:
        self._routes.append(account)
        units = self.session.recorder.about.setdefault("units", {})
        units[account.route.name] = account.purpose

    def on_complete(self, complete: CompleteSet) -> None:
        """Take the factors of all workers for one kernel and step."""
        self._factor_syncers[complete.key].receive(complete)

    def on_announced(self, rank: int, topic: str, payload: bytes) -> None:
        """Take what another member announced; called on the coordinator's stream."""
        if topic == _ASKED_TO_END:
            self.preemption.ask(payload.decode(errors="replace"))
            return
        try:
            if topic != _DATA:
                raise ProtocolError(f"rank {rank} announced {topic!r}, which nobody here expects")
            self.data_ends.heard(rank, payload)
        except ProtocolError as failure:
            self.session.fail(failure)

    def gather(self, what: str, payload: bytes) -> list[bytes]:
        """Every worker's payload, in rank order; all workers call in the same order.

        Args:
          what: all workers must do to come here, in words: "worker rank 1 has to <what>".

        Raises:
          PoseidonError: someone did not come in time, or the job failed.
        """
        return self._gathers.gather(what, payload, self._exchange)

    def gather_stream(
        self, what: str, num_bytes: int, content: Iterable[bytes | memoryview], take: Take
    ) -> None:
        """The same for what is too long to be held as a whole; see `Gathers.stream`."""
        self._gathers.stream(what, num_bytes, content, take, self._exchange)

    def meet(self, what: str) -> None:
        """Wait until every worker is here, as long as a step may take; raises as `gather`."""
        step_s = self.session.deadlines.step_s
        self._gathers.gather(what, b"", lambda name, piece: self._exchange(name, piece, step_s))

    def _exchange(self, name: str, piece: bytes, timeout_s: float | None = None) -> list[bytes]:
        # Another worker may come as late as its step, or its share of the data, takes.
        has_begun = any(each.route.next_step > 0 for each in self._routes)
        deadlines = self.session.deadlines
        timeout_s = timeout_s or (deadlines.step_s if has_begun else deadlines.start_s)
        with self._failing_together(f"all workers to {name}"):
            return self.coordinator.gather(name, piece, timeout_s=timeout_s)

    def advance(self, event: Callable[[Stopping], StopOffer | None]) -> bool:
        """Tell where this worker is in its training; whether all workers stop here.

        Raises:
          PoseidonError: the workers could not agree in time, or the job failed.
        """
        with self._failing_together("the others' word on a stop"):
            return self.coordinator.advance(event)

    @contextlib.contextmanager
    def _failing_together(self, what: str) -> Iterator[None]:
        """Within: this worker waits for `what`; an error is the session's, which all get.

        Who lets it wait is the coordinator's to report.
        """
        with self.session.waiting_for(what):
            try:
                yield
            except PoseidonError as failure:
                raise self.session.fail_together(failure) from failure

    def last_step(self) -> int:
        """The last training step that this worker has begun; -1 before the first."""
        steps = [each.route.next_step for each in self._routes if each.route.is_gradient]
        return max(steps, default=0) - 1

    def describe_missing(self) -> str:
        """Who owes contributions now, as far as this worker can tell."""
        routes = [each.route for each in self._routes]
        missing = [
            *owing.missing_replicas(self.rank, routes, self.names),
            *owing.missing_factors(self.factors.missing(), self.names),
            *owing.missing_at_servers(self._links, routes, self.names),
        ]
        return owing.described(missing)

    def statistics(self) -> Statistics:
        """What has been sent, received and waited for until now."""
        return accounts.statistics_of(
            self._routes,
            session=self.session,
            num_workers=self.num_workers,
            traffic_of_servers=[link.traffic() for link in self._links],
            own_server=self.own_server,
            traffic_of_workers=self.factors.traffic(),
        )

    def leave(self) -> None:
        """Say goodbye to servers and peers; what was sent still arrives."""
        for link in self._links:
            link.leave(self.last_step())
        self.factors.leave(self.last_step())

    def close(self, *, timeout_s: float) -> None:
        """Cut the streams to servers and peers."""
        for link in self._links:
            link.close(timeout_s=timeout_s)
        self.factors.close(timeout_s=timeout_s)

    def _loss_reporter(self, who: str) -> Callable[[Exception], None]:
        return lambda error: self.session.lost(None, error, who=who)

    def _sent_recorder(self, server: int) -> Callable[[int, int], None]:
        recorder = self.session.recorder

        def record(key: int, step: int) -> None:
            unit = self._expected[server].unit(key)
            if unit in recorder.about.get("units", ()):  # A route, whose steps are recorded.
                recorder.event("sent", unit, step, server=server)

        return record
