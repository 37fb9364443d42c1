"""One parameter server process: from the first byte of its environment to its exit code.

It imports no TensorFlow and is ready in under a second. It ends with code 0 when all workers
have said goodbye, with 143 when they did so before they were done because some process was asked
to end, and with 1 when the job failed or its parent process is gone. Asked to end itself (SIGTERM)
it asks the workers to stop, and serves until they have; before everyone has arrived it just ends.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.errors import ConfigError, MemberError, PoseidonError, ProtocolError
from poseidon_tf.kv.service import KVService, streams_per_server
from poseidon_tf.launch import failure_text, sigterm
from poseidon_tf.launch.cluster_env import ClusterConfig, current_environ, read_cluster
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.launch.own_server import report_end
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.launch.security_env import read_security
from poseidon_tf.session import preemption
from poseidon_tf.trace import Recorder
from poseidon_tf.transport.address import Address
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


def serve(
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
) -> int:
    """Serve as server `index` on `address` until the job ends; the process's exit code.

    Args:
      parent_gone: set by the caller when the process that wants this server is gone.
      memory: shared with that process, the worker whose rank is `index`.
      settings: how its connections behave.
      on_received: hears of every contribution: (rank, key name, step).
      on_failed: hears why this server ends, if it has begun to serve and does not end in order.

    Raises:
      ConfigError: it cannot listen there.
    """
    keep_freed_memory()
    num_streams = streams_per_server(config.num_servers)
    server = Server(
        address,
        max_streams=KVService.streams_needed(config.num_workers, num_streams),
        ports=ports,
        settings=settings,
        patience_s=PORT_PATIENCE_S,
    )
    identity = new_identity()
    recorder: Recorder | None = None
    last_sum: tuple[str, int] | None = None

    def on_released(name: str, step: int) -> None:
        nonlocal last_sum
        last_sum = name, step
        if recorder is not None:
            recorder.event("released", name, step)

    KVService(
        server,
        num_workers=config.num_workers,
        addresses=config.workers,
        num_streams=num_streams,
        index=index,
        identity=identity,
        memory=memory,
        memory_rank=index,
        on_received=on_received,
        on_released=on_released,
    )
    server.start()
    over = parent_gone or threading.Event()
    failures: list[PoseidonError] = []
    ended: list[bool] = []

    def on_failure(error: PoseidonError) -> None:
        failures.append(error)
        over.set()

    def on_ended() -> None:
        ended.append(True)
        over.set()

    client = CoordinatorClient(
        config.coordinator_address,
        role="server",
        rank=index,
        own_address=server.address,
        info={"identity": identity},
        num_workers=config.num_workers,
        num_servers=config.num_servers,
        settings=settings,
        on_failure=on_failure,
        on_ended=on_ended,
        logger=_log if parent_gone is None else _own_log,
    )

    def asked_to_end() -> bool:
        who = f"server {index} ({server.address})"
        return client.announce(preemption.TOPIC, f"{who} was asked to end (SIGTERM)".encode())

    def parent_is_gone() -> MemberError:
        return MemberError(
            f"worker rank {index} ({config.workers[index]}), which started it, is gone"
        )

    def watch_parent() -> None:
        over.wait()
        client.give_up(parent_is_gone())

    if parent_gone is not None:
        threading.Thread(target=watch_parent, name="poseidon-parent-gone", daemon=True).start()
    else:
        sigterm.on_first_sigterm(asked_to_end, farewell=lambda: None)
    try:
        view = client.join(timeout_s=start_timeout_s)
        # As rank 0 has it: a server has no arguments of its own.
        directory = view.workers[0].info.get("timeline_dir")
        if not isinstance(directory, str | None):
            raise ProtocolError(f"rank 0's timeline_dir is {directory!r}, not a path")
        recorder = Recorder(
            f"server {index}",
            directory=directory,
            offset_s=client.clock_offset_s,
        )
        _log.info("server %d serves on %s", index, server.address)
        over.wait()
        if not ended and not failures:
            # The coordinator may hear of this server's end before that of the worker.
            raise parent_is_gone()
    except PoseidonError as failure:
        failures.append(failure)
        if recorder is not None:  # Before everyone has arrived one member's end is not all's.
            client.report_failure(str(failure))
    finally:
        over.set()
        client.close(timeout_s=1.0)
        server.stop()
        if recorder is not None:
            recorder.write()
    if failures:
        where = f"server {index} had summed nothing"
        if last_sum is not None:
            where = f"the last sum of server {index} was {last_sum[0]!r} of step {last_sum[1]}"
        print(f"server {index}: {failures[0]}; {where}", file=sys.stderr, flush=True)
        block = failure_text.told_block(failures[0], where)
        tell_launcher(current_environ(), block, is_own=False)
        on_failed(failures[0])
    if failures or not ended:
        return 1
    return preemption.EXIT_CODE if client.is_preempted else 0


def main(*, keepalive_s: float, resume_s: float) -> int:
    """`poseidon-tf server`: the task that TF_CONFIG gives this process.

    Args:
      keepalive_s, resume_s: as the workers have them in their `Deadlines`.

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
    return serve(
        config,
        index=config.rank,
        address=config.address,
        settings=ConnectionSettings(keepalive_s=keepalive_s, resume_s=resume_s, security=security),
    )


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
        code = serve(
            ClusterConfig(workers=tuple(orders["workers"])),
            index=orders["index"],
            address=orders["address"],
            ports=tuple(orders["ports"]) if orders["ports"] else None,
            start_timeout_s=orders["start_timeout_s"],
            parent_gone=parent_gone,
            settings=ConnectionSettings.from_dict(orders["settings"]),
            memory=None if orders["memory"] is None else SharedMemory(orders["memory"]),
            on_failed=functools.partial(report, is_in_order=True),
        )
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
