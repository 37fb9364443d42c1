"""The parts of one worker, wired to each other: built in order, ended in one way."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, final

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import RosterView
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.coordinator.waiting import Notices
from poseidon_tf.errors import ConfigError, MemberError, PoseidonError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.metrics_server import MetricsServer
from poseidon_tf.launch.own_server import OwnServer
from poseidon_tf.launch.rendezvous import check_own_address
from poseidon_tf.launch.seed_env import SEEDS
from poseidon_tf.launch.server_main import PORT_PATIENCE_S
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.progress import showing
from poseidon_tf.session.reporting import Reporter
from poseidon_tf.session.session import Session
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.trace import Recorder
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.identities import new_identity

_log = logging.getLogger("poseidon_tf")
# Streams in which the coordinator tells a process that its rank is taken.
_ROOM_FOR_STRANGERS = 4
_WORD_OF_THE_JOB_S = 1.0  # For the coordinator to say here what it has said to the own server.


@final
class WorkerParts:
    """A worker that has arrived, and what is ended after it.

    Whatever is raised before it has, an interrupt too, ends the parts that are there by then.

    Args:
      info: what the other members get to know of it; must be JSON.
      restarts: how often the launcher has started the job anew.
      data_seed: what rank 0 makes the job's; None: it draws one.
      timeline_dir, metrics_port, num_replicas, ports, settings, clock: see `join`.

    Attributes:
      view: who else is there, and the data seed that all share.
      coordinator: on rank 0.
      reporter: tells the coordinator how this worker is doing.
      job_failure: why this worker cannot go on, if it cannot.
      has_failed: whether it ends as one that does not leave in order; so until told otherwise.

    Raises:
      What `join` does.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        deadlines: Deadlines,
        info: Mapping[str, Any],
        ports: tuple[int, int] | None,
        timeline_dir: str | None,
        num_replicas: int,
        metrics_port: int | None,
        restarts: int,
        data_seed: int | None,
        settings: ConnectionSettings,
        clock: Callable[[], float],
    ) -> None:
        self._deadlines = deadlines
        self._settings, self._restarts = settings, restarts
        self._data_seed = secrets.randbelow(SEEDS) if data_seed is None else data_seed
        self._identity = new_identity()
        self.job_failure = JobFailure(verdict_s=deadlines.verdict_s, where=self._where)
        self.coordinator: CoordinatorService | None = None
        self._own_server: OwnServer | None = None
        self._has_arrived, self.has_failed = False, True
        with contextlib.ExitStack() as parts:  # What comes last is ended first.
            self._recorder = Recorder(f"worker {config.rank}", directory=timeline_dir, clock=clock)
            parts.callback(self._write_trace)
            self._memory = SharedMemory.create() if config.co_located else None
            if self._memory is not None:
                parts.callback(self._memory.close)
            parts.callback(self._end_own_server)
            server = self._bind(config, ports)
            parts.callback(server.stop)
            if Address.parse(config.address, lowest_port=0).port == 0:  # It has chosen one.
                config = config.with_worker(config.rank, server.address)
            self._config = config
            self._names = WorkerNames(config.workers)
            if config.rank == 0:
                self.coordinator = self._host_coordinator(server)
                parts.callback(self.coordinator.close, timeout_s=2.0)
            if self.coordinator is not None and metrics_port is not None:
                host, status = Address.parse(config.address).host, self.coordinator.status
                metrics = MetricsServer(
                    host, metrics_port, status=status, security=settings.security
                )
                parts.callback(metrics.close)
            self.client = self._client(info, clock)
            parts.callback(self.client.close, timeout_s=1.0)
            self.session = self._session()
            parts.callback(self.session.close)
            self.worker = self._worker(server, num_replicas)
            parts.callback(self._cut)
            server.start()
            check_own_address(config)
            self.view = self._arrive(ports)
            self.reporter = Reporter(self.session, self.worker.statistics, self.client.tell)
            parts.callback(self.reporter.close)
            self._parts = parts.pop_all()

    def end(self) -> None:
        """End every part; one whose end fails keeps no other from it."""
        self._parts.close()

    def _bind(self, config: ClusterConfig, ports: tuple[int, int] | None) -> Server:
        num_members = config.num_workers + config.num_servers
        coordinator_streams = num_members + _ROOM_FOR_STRANGERS if config.rank == 0 else 0
        return Server(
            config.address,
            max_streams=FactorService.streams_needed(config.num_workers) + coordinator_streams,
            ports=ports,
            spared=Address.parse(config.coordinator_address).port,
            settings=self._settings,
            patience_s=PORT_PATIENCE_S,
        )

    def _host_coordinator(self, server: Server) -> CoordinatorService:
        config, deadlines = self._config, self._deadlines
        roster = Roster(
            num_workers=config.num_workers,
            num_servers=config.num_servers,
            worker_addresses=config.workers,
            server_addresses=config.servers,
            data_seed=self._data_seed,
            incarnation=time.time_ns(),  # For people; what is refused goes by identities.
            start_timeout_s=deadlines.start_s,
            started_s=time.monotonic(),
            notices=Notices(deadlines.stall_report_s, deadlines.stall_repeat_s),
        )
        return CoordinatorService(server, roster, restarts=self._restarts)

    def _client(self, info: Mapping[str, Any], clock: Callable[[], float]) -> CoordinatorClient:
        return CoordinatorClient(
            self._config.coordinator_address,
            role="worker",
            rank=self._config.rank,
            own_address=self._config.address,
            info={"identity": self._identity, **info},
            clock=clock,
            num_workers=self._config.num_workers,
            num_servers=self._config.num_servers,
            settings=self._settings,
            job_failure=self.job_failure,
            on_left=lambda rank, last_step: self.session.peer_left(rank),
            stop_timeout_s=self._deadlines.step_s,
            on_announced=lambda *announced: self.worker.on_announced(*announced),
        )

    def _session(self) -> Session:
        return Session(
            rank=self._config.rank,
            names=self._names,
            deadlines=self._deadlines,
            recorder=self._recorder,
            describe_missing=lambda: self.worker.describe_missing(),
            last_step=lambda: self.worker.last_step(),
            job_failure=self.job_failure,
        )

    def _worker(self, server: Server, num_replicas: int) -> Worker:
        config = self._config
        factors = FactorService(
            server,
            num_workers=config.num_workers,
            rank=config.rank,
            identity=self._identity,
            on_complete=lambda complete: self.worker.on_complete(complete),
            on_lost=self._lost_peer,
        )
        return Worker(
            rank=config.rank,
            num_workers=config.num_workers,
            session=self.session,
            coordinator=self.client,
            factors=factors,
            names=self._names,
            own_server=config.rank if config.co_located else None,
            memory=self._memory,
            num_replicas=num_replicas,
        )

    def _arrive(self, ports: tuple[int, int] | None) -> RosterView:
        """Start its own server, if it has one, meet everyone, and connect to them."""
        rank, start_s = self._config.rank, self._deadlines.start_s
        if self._config.co_located:
            self._own_server = OwnServer(
                self._config,
                start_timeout_s=start_s,
                ports=ports,
                memory=self._memory,
                settings=self._settings,
                on_ended=self._own_server_ended,
            )
        with self._arrivals_shown():
            view = self.client.join(timeout_s=start_s)
        self._names.learn(view.worker_addresses)
        if self._own_server is not None:
            self._own_server.name = f"server {rank} ({view.server_addresses[rank]})"
        _check_replicas(view, give_up=self._give_up)
        _check_measures(view, give_up=self._give_up)
        _connect(self.worker, view, self._settings, timeout_s=start_s, give_up=self._give_up)
        self._recorder.offset_s = self.client.clock_offset_s
        self._recorder.about["run"] = view.incarnation
        self._has_arrived = True
        _log.info("rank %d is in run %d of the job", rank, view.incarnation)
        return view

    def _arrivals_shown(self) -> contextlib.AbstractContextManager[None]:
        """On rank 0, while it waits for everyone: who has arrived."""
        if self.coordinator is None:
            return contextlib.nullcontext()
        status, address = self.coordinator.status, self._config.coordinator_address
        return showing(
            lambda: status().arrivals,
            lambda: f"{status().arrivals} (the coordinator is {address})",
        )

    def _where(self) -> str:
        if self.client.is_arriving or self.job_failure.over.is_set():
            return ""
        situation = self.session.situation()
        return f"{situation}{self.session.last_events('the job has failed: ' + situation)}"

    def _give_up(self, reason: str) -> None:
        """Tell the others why this member is about to be missing, before they miss it."""
        self.job_failure.give_up(MemberError(reason))
        self.client.close(timeout_s=1.0)

    def _lost_peer(self, peer: int, error: Exception) -> None:
        self.session.lost(peer, error, who=self._names.one(peer))

    def _own_server_ended(self, error: PoseidonError, is_in_order: bool) -> None:
        # What the job has failed of comes here as well; then the server has nothing to add.
        if is_in_order and self.job_failure.over.wait(_WORD_OF_THE_JOB_S):
            return
        self.job_failure.fail(error)

    def _cut(self) -> None:
        self.session.close()  # What breaks from now on is no surprise.
        self.worker.close(timeout_s=1.0 if self._has_arrived else 0.0)

    def _end_own_server(self) -> None:
        if self._own_server is not None:
            self._own_server.end(failed=self.has_failed)

    def _write_trace(self) -> None:
        if self._has_arrived:
            self._recorder.about["statistics"] = asdict(self.worker.statistics())
            self._recorder.write()


def _check_replicas(view: RosterView, *, give_up: Callable[[str], None]) -> None:
    """Raises ConfigError, and tells the others first: they may not have come to this yet."""
    counts = [member.info.get("num_replicas", 1) for member in view.workers]
    for rank, count in enumerate(counts):
        if count != counts[0]:
            refusal = ConfigError(
                f"worker rank 0 has {counts[0]} replicas, worker rank {rank} has {count}; give "
                "every worker as many devices, with PoseidonStrategy(devices=[...])"
            )
            give_up(f"ConfigError: {refusal}")
            raise refusal


def _check_measures(view: RosterView, *, give_up: Callable[[str], None]) -> None:
    """Raises ConfigError where some workers measure and others do not, as `_check_replicas`."""
    asked = [member.info.get("measures", "") for member in view.workers]
    for rank, each in enumerate(asked):
        if each != asked[0]:
            refusal = ConfigError(
                f"worker rank 0 has {asked[0] or 'no probe'}, worker rank {rank} has "
                f"{each or 'no probe'}; give all workers the same plan_by and probe"
            )
            give_up(f"ConfigError: {refusal}")
            raise refusal


def _connect(
    worker: Worker,
    view: RosterView,
    settings: ConnectionSettings,
    *,
    timeout_s: float,
    give_up: Callable[[str], None],
) -> None:
    job_failure = worker.session.job_failure
    try:
        worker.connect(view.servers, settings=settings, timeout_s=timeout_s)
        worker.factors.connect(
            dict(enumerate(view.worker_addresses)),
            settings=settings,
            timeout_s=timeout_s,
            identities_of={member.rank: member.identity for member in view.workers},
            over=job_failure.over,
        )
    except PoseidonError as failure:
        if job_failure.failure is not None:  # Somebody has left the job meanwhile.
            raise job_failure.failure from failure
        give_up(str(failure))
        raise
