"""One job on this machine: start every member, show what they print, end them all, try again.

Rule 1: each member leads its own process group, and every group is gone when we return, or when we
        are killed: then a guardian sees to it.
Rule 2: the first member that fails gives the exit code; what follows is our own doing.
Rule 3: how many workers the next try has is decided in `sizes`, and said in one line.

Workers share the processors: each gets its share through ``TF_NUM_INTRAOP_THREADS`` and
``TF_NUM_INTEROP_THREADS``, unless the caller set them. TensorFlow takes both as defaults, so
``tf.config.threading`` in the script still overrules them.
"""

import itertools
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TextIO

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.restarts import ELASTIC, RESTARTS
from poseidon_tf.launch.security_env import TOKEN, has_token
from poseidon_tf.launch.seed_env import SEED, SEEDS
from poseidon_tf.launcher.guardian import Guardian
from poseidon_tf.launcher.members import Events, LocalMember
from poseidon_tf.launcher.output import MemberOutput
from poseidon_tf.launcher.sizes import MORE, Sizes
from poseidon_tf.launcher.supervisor import Ending, Patience, Supervisor

SERVER_COMMAND = (sys.executable, "-m", "poseidon_tf", "server")


def run_local(
    command: Sequence[str],
    *,
    num_workers: int,
    min_workers: int | None = None,
    num_servers: int | None = None,
    environ: Mapping[str, str],
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    patience: Patience | None = None,
    server_command: Sequence[str] = SERVER_COMMAND,
    max_restarts: int = 0,
) -> int:
    """Run ``command`` once per worker, with servers beside them, until all have ended.

    Args:
        command: A Python script or a program, and its arguments.
        num_workers: Workers to start; with ``min_workers``, the most.
        min_workers: With how many the job may go on once others were lost; None: with all only.
            A worker counts as lost if a signal has ended it that this process did not send, but
            for those that tell of a fault of its own, such as SIGSEGV. SIGUSR1 to this process:
            all workers save and end as on SIGTERM, and the job goes on with ``num_workers``.
        num_servers: Dedicated servers to start; None or 0: each worker brings its own. Their
            number is the same in all tries; but a worker that is left alone gets one.
        environ: What every member inherits; ``TF_CONFIG`` is replaced, and a job's token and
            seed added if it names none.
        stdout: Where the members' output goes, each line led by ``[worker 0] ``.
        max_restarts: How often the whole job is started anew, on other ports, after a member has
            failed. When this process was asked to stop it is not.

    Returns:
        0, or the exit code of the member that failed first (128 + signal if one killed it) in the
        last try, or 128 + signal if this process was asked to stop by one.
    """
    least = num_workers if min_workers is None else min_workers
    if not 1 <= least <= num_workers:
        raise ConfigError(
            f"a job needs at least one worker, and may not have more at least than at most: got "
            f"{num_workers=}, {min_workers=}"
        )
    if not command or (num_servers or 0) < 0 or max_restarts < 0:
        raise ConfigError(
            "a local job needs a command and no negative number of servers or restarts, got "
            f"{list(command)}, {num_servers=}, {max_restarts=}"
        )
    program = _runnable(command)
    if not has_token(environ):
        # Of this job alone: whoever else is on this machine is refused, another job included.
        environ = {**environ, TOKEN: secrets.token_hex(32)}
    if not environ.get(SEED):  # Data that a script does not seed has one order in all tries.
        environ = {**environ, SEED: str(secrets.randbelow(SEEDS))}
    events: Events = queue.SimpleQueue()
    if least < num_workers:
        environ = {**environ, ELASTIC: "1"}
    starts, sizes = itertools.count(), Sizes(least, num_workers, max_restarts)

    def try_once(guardian: Guardian) -> tuple[Ending, bool]:
        """How it has ended, and whether there is another try."""
        members: list[LocalMember] = []
        told = {**environ, RESTARTS: str(next(starts))}
        with ExitStack() as stack:
            output = MemberOutput(
                stdout or sys.stdout, stderr or sys.stderr, lambda: events.put(signal.SIGPIPE)
            )
            stack.callback(output.close)
            stack.callback(_leave_nothing, members, guardian)
            # The numbers are free now; another program may still take one before its owner does.
            # One worker alone would bring no server, and take part in no job.
            is_left_alone = sizes.is_elastic and sizes.workers == 1
            servers = num_servers or int(is_left_alone)
            addresses = _free_addresses(sizes.workers + servers)
            cluster = {"worker": addresses[: sizes.workers], "ps": addresses[sizes.workers :]}
            for role, job, argv in (
                ("server", "ps", server_command),
                ("worker", "worker", program),
            ):
                for index in range(len(cluster[job])):
                    variables = _environ_of(told, cluster, job, index)
                    members.append(LocalMember(role, index, argv, variables, events))
                    guardian.watch(members[-1].process.pid)
                    output.follow(members[-1].process, members[-1].label)
            output.start()
            ending = Supervisor(
                members,
                events,
                output.say,
                patience or Patience(),
                then=sizes.then,
                may_grow=sizes.may_grow,
            ).wait_ended()
        if ending.is_failure:  # After all that the members have printed.
            output.say_cause(ending.blame.lines(lambda member: output.last_error(member.label)))
        goes_on = sizes.goes_on(ending)
        if goes_on and sizes.is_elastic:
            output.say(sizes.said(ending))
        return ending, goes_on

    with _signals_into(events, [MORE] if sizes.is_elastic else []), Guardian() as guardian:
        goes_on = True
        while goes_on:
            ending, goes_on = try_once(guardian)
        return ending.code


def _runnable(command: Sequence[str]) -> list[str]:
    is_script = command[0].endswith(".py")
    if is_script and not os.path.exists(command[0]):
        raise ConfigError(f"there is no script {command[0]!r} in {os.getcwd()!r}")
    if is_script or shutil.which(command[0]) is None:
        return [sys.executable, "-u", *command]
    return list(command)


def _free_addresses(count: int) -> list[str]:
    with ExitStack() as stack:  # Held together, so that no number comes up twice.
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in held]


def _environ_of(
    environ: Mapping[str, str], cluster: dict[str, list[str]], job: str, index: int
) -> dict[str, str]:
    config = {
        "cluster": {name: addresses for name, addresses in cluster.items() if addresses},
        "task": {"type": job, "index": index},
    }
    result = {**environ, "TF_CONFIG": json.dumps(config), "PYTHONUNBUFFERED": "1"}
    num_workers = len(cluster["worker"])
    if job == "worker" and num_workers > 1:
        has_affinity = hasattr(os, "sched_getaffinity")
        num_cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        share = max(1, num_cpus // num_workers)
        result.setdefault("TF_NUM_INTRAOP_THREADS", str(share))
        # Two: a push that waits for Python must not hold up the rest of the graph.
        result.setdefault("TF_NUM_INTEROP_THREADS", str(max(2, share)))
    return result


def _leave_nothing(members: list[LocalMember], guardian: Guardian) -> None:
    for member in members:
        member.signal_group(signal.SIGKILL)  # Also what a member that ended left behind.
    for member in members:
        member.waiter.join()
        guardian.forget(member.process.pid)  # Before it is reaped and its number is free.
        member.process.wait()
        member.report.close()


@contextmanager
def _signals_into(events: Events, more: Sequence[signal.Signals]) -> Iterator[None]:
    """Have those that stop the job, and `more`, come as events."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set handlers; its owner decides.
        return
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *more)
    # SimpleQueue.put is reentrant, which a signal handler needs.
    before = {
        each: signal.signal(each, lambda signum, _: events.put(signal.Signals(signum)))
        for each in caught
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
