"""Brings one worker into the cluster and takes it out again; `worker_parts` has what that takes.

Leaving starts when the main thread ends, not when the interpreter does: by then it would wait
for gRPC's threads, which wait for streams that only leaving closes.
"""

from __future__ import annotations

import logging
import threading
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, final

from poseidon_tf.errors import ConfigError, MemberError
from poseidon_tf.launch import failure_text, sigterm
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import current_environ
from poseidon_tf.launch.flight_signal import FlightSignal
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.launch.restarts import read_restarts
from poseidon_tf.launch.seed_env import read_seed
from poseidon_tf.launch.told_servers import ToldServers
from poseidon_tf.launch.uncaught import log_last_events, on_uncaught, own_reason
from poseidon_tf.launch.worker_parts import WorkerParts
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.transport.connections import ConnectionSettings

_log = logging.getLogger("poseidon_tf")
# By coordinator and rank: as whom it has joined last, for a second strategy to be told of.
_joined: dict[tuple[str, int], Membership] = {}
_MAIN_THREAD_LOOK_S = 0.25


@final
class Membership:
    """A worker that has joined, until it has left.

    Attributes:
      view: who else is there, and the data seed that all share.
      reporter: tells the coordinator how this worker is doing.
      status: how the job is doing; None where this is not rank 0.
    """

    def __init__(self, config: ClusterConfig, parts: WorkerParts) -> None:
        self.config, self.worker, self.view = config, parts.worker, parts.view
        self._parts, self.reporter = parts, parts.reporter
        self.status = parts.coordinator.status if parts.coordinator is not None else None
        self._job_failure = parts.job_failure
        session = self.worker.session
        self._flight = FlightSignal(session.recorder, session.name)
        self._lock = threading.Lock()
        self._is_over = False
        self._leaver: threading.Thread | None = None
        self._unhook: Callable[[], None] = lambda: None

    def _when(self) -> str:
        return failure_text.step_words(self.worker.last_step())

    @property
    def is_over(self) -> bool:
        """Whether it has begun to leave."""
        return self._is_over

    def fail_by(self, error: BaseException, trace: types.TracebackType | None) -> None:
        """Give up for an exception of this worker's script; the launcher hears of it too."""
        if self._job_failure.cause is None:
            name = self.worker.session.name
            block = failure_text.own_block(name, self._when(), error, trace)
            log_last_events(self.worker.session, own_reason(error, trace))
            tell_launcher(current_environ(), block, is_own=True)
            self._give_up(own_reason(error, trace))

    def _give_up(self, reason: str) -> None:
        self._job_failure.give_up(MemberError(f"{reason} ({self._when()})"))

    def leave(self, reason: str = "") -> None:
        """Say goodbye, or why not, and end every thread and process of this worker.

        Args:
          reason: why this worker gives up, where it does; the first reason counts.
        """
        if reason:
            self._give_up(reason)
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        try:
            self._say_goodbye()
        finally:
            self._parts.end()
            self._flight.close()

    def _say_goodbye(self) -> None:
        """Or why not; on rank 0, wait for the others'."""
        session, client = self.worker.session, self.worker.coordinator
        session.close()
        job_failure = self._job_failure
        failed = job_failure.cause is not None or job_failure.given_up is not None
        if job_failure.cause is not None:
            block = failure_text.told_by(job_failure)
            tell_launcher(current_environ(), block, is_own=False)
        if not failed:
            self.worker.leave()
        self._parts.has_failed = failed
        client.goodbye(self.worker.last_step(), preempted=self.worker.preemption.is_heeded)
        patience_s = 5.0 if failed else session.deadlines.leave_s
        coordinator = self._parts.coordinator
        if coordinator is not None and not coordinator.close(timeout_s=patience_s):
            _log.warning("not every member has left within %g s", patience_s)

    def leave_with_main_thread(self) -> None:
        """Have `leave` called when the main thread has ended, however it ends."""
        self._unhook = on_uncaught(
            self.worker.session,
            when=self._when,
            environ=current_environ(),
            leave=self.leave_now,
        )

        def wait_main_thread() -> None:
            # With a look now and then at whether `leave` has been called before.
            while threading.main_thread().is_alive() and not self._is_over:
                threading.main_thread().join(_MAIN_THREAD_LOOK_S)
            self.leave()

        self._leaver = threading.Thread(target=wait_main_thread, name="poseidon-leave")
        self._leaver.start()

    def leave_now(self, reason: str = "") -> None:
        """`leave`, and no thread of it goes on."""
        self.leave(reason)
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
                self._job_failure.give_up(MemberError("it was terminated (SIGTERM)"))
                client.close(timeout_s=1.0)

        sigterm.on_first_sigterm(notice, farewell)


def join(
    config: ClusterConfig,
    *,
    arithmetic: Mapping[str, Any],
    deadlines: Deadlines,
    ports: tuple[int, int] | None = None,
    timeline_dir: str | None = None,
    metrics_port: int | None = None,
    num_replicas: int = 1,
    seed: int | None = None,
    measures: str = "",
    settings: ConnectionSettings | None = None,
    clock: Callable[[], float] = time.time,
) -> Membership:
    """Bring this worker into the cluster and wait until everyone is there.

    Args:
      arithmetic: what the bits of this worker's products depend on; must be JSON.
      timeline_dir: where each process writes its trace when it ends; None for none.
      metrics_port: where rank 0 serves the job's status to Prometheus; None for nowhere.
      num_replicas: G of this worker, which must be that of all.
      measures: what its script asks all workers to measure together once all are here; the same
        on all, or they wait for each other.
      seed: what this worker's script has seeded TensorFlow with; all get to know it.
      settings: how its connections behave, by default as `deadlines` has it; the files of its
        security have been checked.
      clock: this process's wall clock, in seconds.
      ports: first and last port for what chooses its own; the system's choice if None.

    Raises:
      ConfigError: the port is in use, perhaps by this process itself, the coordinator refuses this
        member, or the workers have different numbers of replicas.
      StartTimeout: someone is missing; the message names them.
    """
    key = (config.coordinator_address, config.rank)
    held = _joined.get(key)
    if held is not None and not held.is_over:
        raise ConfigError(
            f"this process is {held.worker.names.one(config.rank)} already, by a "
            "PoseidonStrategy that it constructed before; use that one, or call its shutdown() "
            "before another is constructed"
        )
    keep_freed_memory()
    told = ToldServers(
        timeline_dir=timeline_dir,
        keepalive_s=deadlines.keepalive_s,
        resume_s=deadlines.resume_s,
    )
    parts = WorkerParts(
        config,
        deadlines=deadlines,
        info={
            "arithmetic": dict(arithmetic),
            "num_replicas": num_replicas,
            "seed": seed,
            "measures": measures,
            **told.as_info(),
        },
        ports=ports,
        timeline_dir=timeline_dir,
        metrics_port=metrics_port,
        num_replicas=num_replicas,
        restarts=read_restarts(current_environ()),
        data_seed=read_seed(current_environ()),
        settings=settings or deadlines.connections(),
        clock=clock,
    )
    _joined[key] = Membership(config, parts)
    return _joined[key]
