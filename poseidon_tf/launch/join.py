"""Brings one worker into the cluster and takes it out again: builds every part, in order.

Leaving starts when the main thread ends, not when the interpreter does: by then it would wait
for gRPC's threads, which wait for streams that only leaving closes.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.messages import RosterView
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.coordinator.waiting import Notices
from poseidon_tf.errors import ConfigError, PoseidonError
from poseidon_tf.launch import failure_text, sigterm
from poseidon_tf.launch.cluster_env import ClusterConfig, current_environ
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.launch.own_server import OwnServer
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.launch.server_main import PORT_PATIENCE_S
from poseidon_tf.launch.uncaught import on_uncaught
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.session import Session
from poseidon_tf.session.worker import Worker
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.trace import Recorder
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.security import Security
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.identities import new_identity

_log = logging.getLogger("poseidon_tf")
# By address: as whom this process has joined last, for a second strategy to be told of.
_joined: dict[str, Membership] = {}
# Streams in which the coordinator tells a process that its rank is taken.
_ROOM_FOR_STRANGERS = 4
_MAIN_THREAD_LOOK_S = 0.25
_WORD_OF_THE_JOB_S = 1.0  # For the coordinator to say here what it has said to the own server.


@final
@dataclass(kw_only=True)
class Membership:
    """A worker that has joined, and what must be ended after it.

    Attributes:
      view: who else is there, and the data seed that all share.
    """

    worker: Worker
    view: RosterView
    config: ClusterConfig
    _server: Server
    _coordinator: CoordinatorService | None
    _own_server: OwnServer | None
    _memory: SharedMemory | None
    _failure: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_over: bool = False
    _leaver: threading.Thread | None = None
    _unhook: Callable[[], None] = lambda: None

    def _when(self) -> str:
        return failure_text.step_words(self.worker.last_step())

    @property
    def is_over(self) -> bool:
        """Whether it has begun to leave."""
        return self._is_over

    def fail(self, reason: str) -> None:
        """Tell everyone that this worker gives up; the first reason counts."""
        self._failure = self._failure or reason

    def leave(self) -> None:
        """Say goodbye, or why not, and end every thread and process of this worker."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        session, client = self.worker.session, self.worker.coordinator
        deadlines = session.deadlines
        session.close()
        failed = bool(self._failure or session.failure)
        if failed:
            if session.cause is not None:
                tell_launcher(current_environ(), failure_text.told_to(session), is_own=False)
            client.report_failure(f"{self._failure or session.failure} ({self._when()})")
        else:
            self.worker.leave()
        client.goodbye(self.worker.last_step(), preempted=self.worker.preemption.is_heeded)
        patience_s = 5.0 if failed else deadlines.leave_s
        if self._coordinator is not None and not self._coordinator.close(timeout_s=patience_s):
            _log.warning("not every member has left within %g s", patience_s)
        self.worker.close(timeout_s=1.0)
        client.close(timeout_s=1.0)
        self._server.stop()
        if self._own_server is not None:
            self._own_server.end(failed=failed)
        if self._memory is not None:
            self._memory.close()
        session.recorder.write()

    def leave_with_main_thread(self) -> None:
        """Have `leave` called when the main thread has ended, however it ends."""
        self._unhook = on_uncaught(
            self.worker.session,
            when=self._when,
            fail=self.fail,
            environ=current_environ(),
        )

        def wait_main_thread() -> None:
            # With a look now and then at whether `leave` has been called before.
            while threading.main_thread().is_alive() and not self._is_over:
                threading.main_thread().join(_MAIN_THREAD_LOOK_S)
            self.leave()

        self._leaver = threading.Thread(target=wait_main_thread, name="poseidon-leave")
        self._leaver.start()

    def leave_now(self) -> None:
        """`leave`, and no thread of it goes on."""
        self.leave()
        self._unhook()
        if self._leaver is not None:
            self._leaver.join()

    def notice_sigterm(self) -> None:
        """Have SIGTERM end this worker's training in order, where it watches for that."""
        client, preemption = self.worker.coordinator, self.worker.preemption

        def notice() -> bool:
            if preemption.is_watched and not self._is_over:
                preemption.ask(f"{self.worker.session.name} was asked to end (SIGTERM)")
                return True
            return False

        def farewell() -> None:
            if not self._is_over:
                client.report_failure("it was terminated (SIGTERM)")
                client.close(timeout_s=1.0)

        sigterm.on_first_sigterm(notice, farewell)


def join(
    config: ClusterConfig,
    *,
    arithmetic: Mapping[str, Any],
    deadlines: Deadlines,
    ports: tuple[int, int] | None = None,
    timeline_dir: str | None = None,
    num_replicas: int = 1,
    seed: int | None = None,
    security: Security = Security(),
    clock: Callable[[], float] = time.time,
) -> Membership:
    """Bring this worker into the cluster and wait until everyone is there.

    Args:
      arithmetic: what the bits of this worker's products depend on; must be JSON.
      timeline_dir: where each process writes its trace when it ends; None for none.
      num_replicas: G of this worker, which must be that of all.
      seed: what this worker's script has seeded TensorFlow with; all get to know it.
      security: who may connect; its files have been checked.
      clock: this process's wall clock, in seconds.
      ports: first and last port for what needs a port of its own; the system's choice if None.

    Raises:
      ConfigError: the port is in use, perhaps by this process itself, the coordinator refuses this
        member, or the workers have different numbers of replicas.
      StartTimeout: someone is missing; the message names them.
    """
    held = _joined.get(config.address)
    if held is not None and not held.is_over:
        raise ConfigError(
            f"this process is worker rank {config.rank} ({config.address}) already, by a "
            "PoseidonStrategy that it constructed before; use that one, or call its shutdown() "
            "before another is constructed"
        )
    keep_freed_memory()
    rank, num_workers = config.rank, config.num_workers
    settings = deadlines.connections(security)
    num_members = num_workers + config.num_servers
    coordinator_streams = num_members + _ROOM_FOR_STRANGERS if rank == 0 else 0
    server = Server(
        config.address,
        max_streams=FactorService.streams_needed(num_workers) + coordinator_streams,
        settings=settings,
        patience_s=PORT_PATIENCE_S,
    )
    identity = new_identity()
    recorder = Recorder(f"worker {rank}", directory=timeline_dir, clock=clock)
    coordinator = _host_coordinator(server, config, deadlines) if rank == 0 else None
    own_server: OwnServer | None = None
    memory = SharedMemory.create() if config.co_located else None
    client = CoordinatorClient(
        config.coordinator_address,
        role="worker",
        rank=rank,
        own_address=config.address,
        info={
            "identity": identity,
            "arithmetic": dict(arithmetic),
            "timeline_dir": timeline_dir,
            "num_replicas": num_replicas,
            "seed": seed,
        },
        clock=clock,
        num_workers=num_workers,
        num_servers=config.num_servers,
        settings=settings,
        on_failure=lambda error: session.fail(error, told=True),
        on_left=lambda left, last_step: session.peer_left(left),
        stop_timeout_s=deadlines.step_s,
        on_announced=lambda rank, topic, payload: worker.on_announced(rank, topic, payload),
    )
    names = WorkerNames(config.workers)
    session = Session(
        rank=rank,
        names=names,
        deadlines=deadlines,
        recorder=recorder,
        describe_missing=lambda: worker.describe_missing(),
        last_step=lambda: worker.last_step(),
        report=client.report_error,
    )

    def end_waits() -> None:
        if session.failure is not None:
            client.end_waits(session.failure)

    session.on_failure.append(end_waits)

    def own_server_ended(error: PoseidonError, is_in_order: bool) -> None:
        # What the job has failed of comes here as well; then the server has nothing to add.
        if is_in_order and client.wait_failed(timeout_s=_WORD_OF_THE_JOB_S):
            return
        if not client.give_up(error, tell=True):
            session.fail(error)

    factors = FactorService(
        server,
        num_workers=num_workers,
        rank=rank,
        identity=identity,
        on_complete=lambda complete: worker.on_complete(complete),
        on_lost=lambda peer, error: session.lost(peer, error, who=names.one(peer)),
    )
    worker = Worker(
        rank=rank,
        num_workers=num_workers,
        session=session,
        coordinator=client,
        factors=factors,
        names=names,
        own_server=rank if config.co_located else None,
        memory=memory,
        num_replicas=num_replicas,
    )
    server.start()
    try:
        if config.co_located:
            own_server = OwnServer(
                config,
                start_timeout_s=deadlines.start_s,
                ports=ports,
                memory=memory,
                settings=settings,
                on_ended=own_server_ended,
            )
        view = client.join(timeout_s=deadlines.start_s)
        if own_server is not None:
            own_server.name = f"server {rank} ({view.server_addresses[rank]})"
        _check_replicas(view, tell=client.report_failure)
        _connect(worker, view, settings, timeout_s=deadlines.start_s)
    except BaseException:  # Whoever interrupts it in a notebook may call it again.
        session.close()
        worker.close(timeout_s=0.0)
        client.close(timeout_s=1.0)
        if coordinator is not None:
            coordinator.close(timeout_s=2.0)
        server.stop()
        if own_server is not None:
            own_server.end(failed=True)
        if memory is not None:
            memory.close()
        raise
    recorder.offset_s = client.clock_offset_s
    _log.info("rank %d is in run %d of the job", rank, view.incarnation)
    _joined[config.address] = Membership(
        worker=worker,
        view=view,
        config=config,
        _server=server,
        _coordinator=coordinator,
        _own_server=own_server,
        _memory=memory,
    )
    return _joined[config.address]


def _check_replicas(view: RosterView, *, tell: Callable[[str], None]) -> None:
    """Raises ConfigError, of which `tell` tells the others: they may not have come to this yet."""
    counts = [member.info.get("num_replicas", 1) for member in view.workers]
    for rank, count in enumerate(counts):
        if count != counts[0]:
            refusal = ConfigError(
                f"worker rank 0 has {counts[0]} replicas, worker rank {rank} has {count}; give "
                "every worker as many devices, with PoseidonStrategy(devices=[...])"
            )
            tell(f"ConfigError: {refusal}")
            raise refusal


def _connect(
    worker: Worker, view: RosterView, settings: ConnectionSettings, *, timeout_s: float
) -> None:
    try:
        worker.connect(view.servers, settings=settings, timeout_s=timeout_s)
        worker.factors.connect(
            dict(enumerate(view.worker_addresses)),
            settings=settings,
            timeout_s=timeout_s,
            identities_of={member.rank: member.identity for member in view.workers},
        )
    except PoseidonError as failure:
        worker.coordinator.report_failure(str(failure))  # Why this member is about to be missing.
        raise


def _host_coordinator(
    server: Server, config: ClusterConfig, deadlines: Deadlines
) -> CoordinatorService:
    roster = Roster(
        num_workers=config.num_workers,
        num_servers=config.num_servers,
        worker_addresses=config.workers,
        server_addresses=config.servers,
        data_seed=secrets.randbits(31),
        incarnation=time.time_ns(),  # For people; what is refused goes by identities.
        start_timeout_s=deadlines.start_s,
        started_s=time.monotonic(),
        notices=Notices(deadlines.stall_report_s, deadlines.stall_repeat_s),
    )
    return CoordinatorService(server, roster)
