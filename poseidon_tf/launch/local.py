"""One job on this machine: start every member, show what they print, end them all.

Rule 1: each member leads its own process group, and every group is gone when we return.
Rule 2: the first member that fails gives the exit code; what follows is our own doing.

Workers share the processors: each gets its share through ``TF_NUM_INTRAOP_THREADS`` and
``TF_NUM_INTEROP_THREADS``, unless the caller set them. TensorFlow takes both as defaults, so
``tf.config.threading`` in the script still overrules them.
"""

import json
import math
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.output import MemberOutput
from poseidon_tf.launch.security_env import TOKEN, has_token

SERVER_COMMAND = (sys.executable, "-m", "poseidon_tf", "server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long members may take to end by themselves, in seconds."""

    after_failure_s: float = 10.0  # Time for the others to say themselves who died.
    after_workers_s: float = 30.0  # For servers, once the last worker has ended.
    after_sigterm_s: float = 5.0


def run_local(
    command: Sequence[str],
    *,
    num_workers: int,
    num_servers: int | None = None,
    environ: Mapping[str, str],
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    patience: Patience | None = None,
    server_command: Sequence[str] = SERVER_COMMAND,
) -> int:
    """Run ``command`` once per worker, with servers beside them, until all have ended.

    Args:
        command: A Python script or a program, and its arguments.
        num_servers: Dedicated servers to start; None or 0: each worker brings its own.
        environ: What every member inherits; ``TF_CONFIG`` is replaced, and a job's token added
            if it names none.
        stdout: Where the members' output goes, each line led by ``[worker 0] ``.

    Returns:
        0, or the exit code of the member that failed first (128 + signal if one killed it).
    """
    if not command or num_workers < 1 or (num_servers or 0) < 0:
        raise ConfigError(
            "a local job needs a command, at least one worker and no negative number of "
            f"servers, got {list(command)}, {num_workers=}, {num_servers=}"
        )
    program = _runnable(command)
    if not has_token(environ):
        # Of this job alone: whoever else is on this machine is refused, another job included.
        environ = {**environ, TOKEN: secrets.token_hex(32)}
    events: _Events = queue.SimpleQueue()
    members: list[_Member] = []
    with ExitStack() as stack:
        stack.enter_context(_stop_signals_into(events))
        output = MemberOutput(
            stdout or sys.stdout, stderr or sys.stderr, lambda: events.put(signal.SIGPIPE)
        )
        stack.callback(output.close)
        stack.callback(_leave_nothing, members)
        # The numbers are free now; another program may still take one before its owner does.
        addresses = _free_addresses(num_workers + (num_servers or 0))
        cluster = {"worker": addresses[:num_workers], "ps": addresses[num_workers:]}
        for role, job, argv in (("server", "ps", server_command), ("worker", "worker", program)):
            for index in range(len(cluster[job])):
                variables = _environ_of(environ, cluster, job, index)
                members.append(_Member(role, index, argv, variables, events))
                output.follow(members[-1].process, members[-1].label)
        output.start()
        return _Supervisor(members, events, output.say, patience or Patience()).wait_ended()


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


class _Member:
    """One process, leader of its own group, and the thread that waits for its end."""

    def __init__(
        self, role: str, index: int, argv: Sequence[str], environ: dict[str, str], events: "_Events"
    ) -> None:
        self.is_worker, self.label = role == "worker", f"{role} {index}"
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                argv, env=environ, stdin=null, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"cannot start {self.label}, {list(argv)}: {error}") from error
        self.waiter = threading.Thread(target=lambda: events.put((self, self._wait_exit_code())))
        self.waiter.start()

    def _wait_exit_code(self) -> int:
        if hasattr(os, "waitid"):
            # Left unreaped, so that the group's number cannot pass to a stranger meanwhile.
            end = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            assert end is not None
            return end.si_status if end.si_code == os.CLD_EXITED else 128 + end.si_status
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def signal_group(self, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # All of the group has ended.
            os.killpg(self.process.pid, signum)


_Event = tuple[_Member, int] | signal.Signals  # A member's end and its code, or a wish to stop.
_Events = queue.SimpleQueue[_Event]


def _leave_nothing(members: list[_Member]) -> None:
    for member in members:
        member.signal_group(signal.SIGKILL)  # Also what a member that ended left behind.
    for member in members:
        member.waiter.join()
        member.process.wait()


@contextmanager
def _stop_signals_into(events: _Events) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set handlers; its owner decides.
        return
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # SimpleQueue.put is reentrant, which a signal handler needs.
    before = {
        each: signal.signal(each, lambda signum, _: events.put(signal.Signals(signum)))
        for each in stops
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Supervisor:
    """Decides who may go on, who is told to end, and what the job's exit code is."""

    def __init__(
        self,
        members: list[_Member],
        events: _Events,
        say: Callable[[str], None],
        patience: Patience,
    ) -> None:
        self._alive = set(members)
        self._events, self._say, self._patience = events, say, patience
        self._code = 0
        self._is_ending = False
        self._deadline_s, self._at_deadline = math.inf, self._kill

    def wait_ended(self) -> int:
        while self._alive:
            left_s = self._deadline_s - time.monotonic()
            try:
                event = self._events.get(timeout=None if left_s == math.inf else max(0.0, left_s))
            except queue.Empty:
                self._at_deadline()
                continue
            if isinstance(event, signal.Signals):
                self._on_stop(event)
            else:
                self._on_end(*event)
        return self._code

    def _on_stop(self, signum: signal.Signals) -> None:
        if self._is_ending:
            return self._kill()  # Asked twice: no more patience.
        self._code = self._code or 128 + signum
        self._terminate(signum.name)

    def _on_end(self, member: _Member, code: int) -> None:
        self._alive.discard(member)
        if self._is_ending or self._code:
            return
        if code:
            self._code = code
            self._say(f"{member.label} ended with code {code}")
            self._terminate_after(self._patience.after_failure_s)
        elif member.is_worker and not any(each.is_worker for each in self._alive):
            self._terminate_after(self._patience.after_workers_s)

    def _terminate_after(self, after_s: float) -> None:
        reason = f"warning: still running after {after_s:g} s"
        self._set_deadline(after_s, lambda: self._terminate(reason))

    def _terminate(self, reason: str) -> None:
        self._is_ending = True
        labels = ", ".join(sorted(member.label for member in self._alive))
        self._say(f"{reason}: sending SIGTERM to {labels}")
        self._signal(signal.SIGTERM)
        self._set_deadline(self._patience.after_sigterm_s, self._kill)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._set_deadline(math.inf, self._kill)  # The kernel's word: nothing is left to try.

    def _signal(self, signum: signal.Signals) -> None:
        for member in self._alive:
            member.signal_group(signum)

    def _set_deadline(self, after_s: float, action: Callable[[], None]) -> None:
        self._deadline_s, self._at_deadline = time.monotonic() + after_s, action
