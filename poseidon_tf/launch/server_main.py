"""One parameter server process: from the first byte of its environment to its exit code.

It imports no TensorFlow and is ready in under a second. It ends with code 0 when all workers
have said goodbye, with 143 when they did so before they were done because some process was asked
to end, and with 1 when the job failed or its parent process is gone. Asked to end itself (SIGTERM)
it asks the workers to stop, and serves until they have; before everyone has arrived it just ends.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import final

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.limits import MAX_NAME_CHARS
from poseidon_tf.coordinator.messages import ServerFigures
from poseidon_tf.errors import ConfigError, MemberError, PoseidonError
from poseidon_tf.kv.service import KVService, streams_per_server
from poseidon_tf.launch import sigterm
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import current_environ, read_cluster
from poseidon_tf.launch.flight_signal import FlightSignal
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.launch.own_server import report_end
from poseidon_tf.launch.protocol_env import read_protocol
from poseidon_tf.launch.rendezvous import check_own_address
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.launch.security_env import read_security
from poseidon_tf.launch.told_servers import ToldServers
from poseidon_tf.session import preemption
from poseidon_tf.session.periodic import Periodic
from poseidon_tf.trace import Recorder
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.base import shortened
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.identities import new_identity

START_TIMEOUT_S = 120.0
PORT_PATIENCE_S = 5.0  # For the process before it, if it was started again, to end.
PARENT_GONE_S = 5.0  # For a server to end in order when the worker that started it is gone.
_log = logging.getLogger("poseidon_tf")
# Of a server that a worker has started: that worker's log says the same in the same place.
_own_log = logging.getLogger("poseidon_tf.own_server")
_own_log.setLevel(logging.ERROR)


@final
class ServerProcess:
    """Server `index` of a job, on `address`. Its parts are ended in one way, whatever is raised.

    Args:
      start_timeout_s: until when everyone must have arrived.
      ports: first and last port where `address` has none, but not rank 0's; the system's choice if
        None.
      parent_gone: set by the caller when the process that wants this server is gone.
      memory: shared with that process, the worker whose rank is `index`.
      settings: how its connections behave.
      on_received: hears of every contribution: (rank, key name, step).
      on_failed: hears why this server ends, if it has begun to serve and does not end in order.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        index: int,
        address: str,
        ports: tuple[int, int] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        parent_gone: threading.Event | None = None,
        memory: SharedMemory | None = None,
        settings: ConnectionSettings = ConnectionSettings(),
        on_received: Callable[[int, str, int], None] | None = None,
        on_failed: Callable[[PoseidonError], None] = lambda failure: None,
    ) -> None:
        self._config, self._index = config, index
        self._address, self._ports = address, ports
        self._start_timeout_s = start_timeout_s
        self._parent_gone, self._memory = parent_gone, memory
        self._settings = settings
        self._on_received, self._on_failed = on_received, on_failed
        self._identity = new_identity()
        self._over = parent_gone or threading.Event()
        self._has_ended = False  # All workers have said goodbye.
        self._job_failure = JobFailure()
        self._job_failure.on_set.append(self._over.set)
        self._recorder: Recorder | None = None  # From when everyone has arrived.
        self._last_sum: tuple[str, int] | None = None

    def serve(self) -> int:
        """Serve until the job ends; the process's exit code.

        Raises:
          ConfigError: it cannot listen there.
        """
        keep_freed_memory()
        with contextlib.ExitStack() as parts:  # What comes last is ended first.
            parts.callback(self._write_trace)
            server = self._bind()
            parts.callback(server.stop)
            service = self._sums(server)
            server.start()
            if self._parent_gone is None:  # Else its worker has been given the same host.
                check_own_address(self._config)
            client = self._client(server.address)
            parts.callback(client.close, timeout_s=1.0)
            parts.callback(self._over.set)
            self._heed_whoever_ends_it(client, server.address)
            with contextlib.ExitStack() as taking_part:
                failure = self._take_part(client, server, service, taking_part)
        if failure is not None:
            self._tell(failure)
            return 1
        return preemption.EXIT_CODE if client.is_preempted else 0

    def _bind(self) -> Server:
        config = self._config
        num_streams = streams_per_server(config.num_servers)
        return Server(
            self._address,
            max_streams=KVService.streams_needed(config.num_workers, num_streams),
            ports=self._ports,
            spared=Address.parse(config.coordinator_address).port,
            settings=self._settings,
            patience_s=PORT_PATIENCE_S,
        )

    def _sums(self, server: Server) -> KVService:
        return KVService(
            server,
            num_workers=self._config.num_workers,
            addresses=self._config.workers,
            num_streams=streams_per_server(self._config.num_servers),
            index=self._index,
            identity=self._identity,
            memory=self._memory,
            memory_rank=self._index,
            on_received=self._on_received,
            on_released=self._note_sum,
        )

    def _client(self, own_address: str) -> CoordinatorClient:
        return CoordinatorClient(
            self._config.coordinator_address,
            role="server",
            rank=self._index,
            own_address=own_address,
            info={"identity": self._identity},
            num_workers=self._config.num_workers,
            num_servers=self._config.num_servers,
            settings=self._settings,
            job_failure=self._job_failure,
            on_ended=self._end_in_order,
            logger=_log if self._parent_gone is None else _own_log,
        )

    def _heed_whoever_ends_it(self, client: CoordinatorClient, own_address: str) -> None:
        """The worker that has started this process, by its end; else whoever sends SIGTERM."""

        def watch_parent() -> None:
            self._over.wait()
            if not self._has_ended:  # Else, or after a failure, it is over anyhow.
                self._job_failure.settle(self._parent_is_gone())

        def asked_to_end() -> bool:
            text = f"server {self._index} ({own_address}) was asked to end (SIGTERM)"
            return client.announce(preemption.TOPIC, text.encode())

        if self._parent_gone is not None:
            threading.Thread(target=watch_parent, name="poseidon-parent-gone", daemon=True).start()
        else:
            sigterm.on_first_sigterm(asked_to_end, farewell=lambda: None)

    def _take_part(
        self,
        client: CoordinatorClient,
        server: Server,
        service: KVService,
        taking_part: contextlib.ExitStack,
    ) -> PoseidonError | None:
        """From arriving until the job has ended, or has failed, of what is returned."""
        failure: PoseidonError | None = None
        try:
            view = client.join(timeout_s=self._start_timeout_s)
            service.learn(view.worker_addresses)
            self._begin(ToldServers.read(view.workers[0].info), client, server)
            assert self._recorder is not None
            self._recorder.about["run"] = view.incarnation
            name = f"server {self._index} ({server.address})"
            taking_part.callback(FlightSignal(self._recorder, name).close)
            taking_part.callback(self._look, service)  # Its last sums count in the timeline.
            taking_part.callback(Periodic(lambda: client.tell(self._look(service))).close)
            _log.info("server %d serves on %s", self._index, server.address)
            self._over.wait()
            if self._job_failure.cause is None and not self._has_ended:
                # The coordinator may hear of this server's end before that of the worker.
                raise self._parent_is_gone()
        except PoseidonError as error:
            failure = error
        failure = self._job_failure.cause or failure
        if failure is not None and self._recorder is not None:
            self._job_failure.give_up(failure)  # Before everyone is here one's end is not all's.
        return failure

    def _begin(self, told: ToldServers, client: CoordinatorClient, server: Server) -> None:
        """Go by what rank 0 says, as far as that can still be changed."""
        self._recorder = Recorder(
            f"server {self._index}",
            directory=told.timeline_dir,
            offset_s=client.clock_offset_s,
        )
        if self._parent_gone is not None:  # It has the deadlines of the worker that started it.
            return
        if told.resume_s is not None:
            client.resume_within(told.resume_s)
            server.resume_within(told.resume_s)
        own_s = self._settings.keepalive_s
        if told.keepalive_s not in (None, own_s):  # gRPC was told when the server was made.
            _log.warning(
                "server %d (%s) takes a connection for broken after %g s of silence, worker rank 0 "
                "(%s) after %g s; give this server the same: poseidon-tf server --keepalive %g, or "
                "Deadlines(keepalive_s=%g) where its script constructs the strategy",
                self._index,
                server.address,
                own_s,
                self._config.coordinator_address,
                *[told.keepalive_s] * 3,
            )

    def _look(self, service: KVService) -> ServerFigures:
        """How this server is doing, for the coordinator and for whoever reads a timeline."""
        assert self._recorder is not None
        figures = _figures(service)
        self._recorder.about["figures"] = asdict(figures)
        return figures

    def _note_sum(self, name: str, step: int) -> None:
        self._last_sum = name, step
        if self._recorder is not None:
            self._recorder.event("released", name, step)

    def _end_in_order(self) -> None:
        self._has_ended = True
        self._over.set()

    def _parent_is_gone(self) -> MemberError:
        address = self._config.workers[self._index]
        return MemberError(f"worker rank {self._index} ({address}), which started it, is gone")

    def _write_trace(self) -> None:
        if self._recorder is not None:
            self._recorder.write()

    def _tell(self, failure: PoseidonError) -> None:
        """Say why this server ends: to people, to the launcher and to who has asked for it."""
        from poseidon_tf.launch import failure_text  # A server that starts waits for no import.

        where = f"server {self._index} had summed nothing"
        if self._last_sum is not None:
            name, step = self._last_sum
            where = f"the last sum of server {self._index} was {name!r} of step {step}"
        path = self._recorder.dump(str(failure)) if self._recorder is not None else None
        if path is not None:
            print(f"server {self._index}: its last events are in {path}", file=sys.stderr)
        print(f"server {self._index}: {failure}; {where}", file=sys.stderr, flush=True)
        block = failure_text.told_block(failure, where)
        tell_launcher(current_environ(), block, is_own=False)
        self._on_failed(failure)


def _figures(service: KVService) -> ServerFigures:
    figures, waits_for = service.look()
    waits_for = shortened(waits_for, most_chars=MAX_NAME_CHARS)
    return ServerFigures(**asdict(figures), waits_for=waits_for)


def main(*, keepalive_s: float, resume_s: float, ports: tuple[int, int] | None = None) -> int:
    """`poseidon-tf server`: the task that TF_CONFIG gives this process.

    Args:
      keepalive_s: as the workers have it in their `Deadlines`.
      resume_s: the same; until everyone has arrived, as rank 0's counts then.
      ports: first and last port for the lanes of its streams; the system's choice if None.

    Raises:
      ConfigError: TF_CONFIG does not describe a server, or what the environment says of TLS or the
        token is wrong.
    """
    config = read_cluster()
    if config.role != "server":
        raise ConfigError(
            "poseidon-tf server needs a TF_CONFIG with task type 'ps', got a task of role "
            f"{config.role!r}; start workers with `python your_script.py` or `poseidon-tf run`"
        )
    security = read_security(current_environ())
    security.check(Address.parse(config.address).name_in_certificates)
    return ServerProcess(
        config,
        index=config.rank,
        address=config.address,
        settings=ConnectionSettings(
            keepalive_s=keepalive_s,
            resume_s=resume_s,
            security=security,
            protocol=read_protocol(current_environ()),
            lane_ports=ports,
        ),
    ).serve()


def child_main() -> int:
    """The server that a worker starts beside itself; its orders come over standard input.

    The first line is JSON. The end of the input means that the worker is gone, unless the line
    "leave" came before: then the server goes on until the job ends, for the other workers' sake.
    How it ended it tells the worker with `report_end`.
    """
    # Whoever ends the worker's whole group means the worker; this process ends after it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orders = json.loads(sys.stdin.readline())
    parent_gone = threading.Event()

    def watch_parent() -> None:
        if sys.stdin.read().strip() != "leave":
            parent_gone.set()
            # Before everyone has arrived nothing looks at that; end all the same.
            threading.Event().wait(PARENT_GONE_S)
            os._exit(1)

    threading.Thread(target=watch_parent, name="poseidon-parent", daemon=True).start()
    report = functools.partial(report_end, orders["report"])
    try:
        code = ServerProcess(
            ClusterConfig(workers=tuple(orders["workers"])),
            index=orders["index"],
            address=orders["address"],
            ports=tuple(orders["ports"]) if orders["ports"] else None,
            start_timeout_s=orders["start_timeout_s"],
            parent_gone=parent_gone,
            settings=ConnectionSettings.from_dict(orders["settings"]),
            memory=None if orders["memory"] is None else SharedMemory(orders["memory"]),
            on_failed=functools.partial(report, is_in_order=True),
        ).serve()
    except BaseException as failure:
        report(failure, is_in_order=False)
        if isinstance(failure, PoseidonError):
            return 1  # The worker raises it.
        raise
    if code in (0, preemption.EXIT_CODE):
        report(None, is_in_order=True)
    return code


if __name__ == "__main__":
    sys.exit(child_main())
