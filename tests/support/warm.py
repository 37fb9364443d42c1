"""Processes that have TensorFlow imported already, forked from one that did nothing else.

Importing TensorFlow takes seconds of CPU; a test run starts hundreds of processes that do. Servers,
which have no TensorFlow, are forked from a parent that has imported what a server needs. Each
process still is one of its own, with its own environment and output, and ends as any other does. A
parent that has only one thread may be forked safely, so it may do no more than import. Ranks have
different parents in turn: with one alone, an order that comes from the hashes of strings would be
the same on all workers, and hide a bug.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

NUM_PARENTS = 2
# What imports may look at: a process in which one of these differs cannot be forked.
_READ_EARLY = ("CUDA", "KERAS", "MKL", "OMP", "OPENBLAS", "PYTHON", "TF_", "XLA")
_READ_LATE = ("PYTHONUNBUFFERED", "TF_CONFIG", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS")
# Without its own threads NumPy leaves the parent with one.
_ENVIRON = {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
_MAX_ORDER_BYTES = 128 * 1024


class WarmProcess:
    """A forked process, with what tests use of `subprocess.Popen`."""

    def __init__(self, parent: Parent, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code if it has ended; minus the signal's number if that ended it."""
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit code. Raises subprocess.TimeoutExpired."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:  # Until it is reaped the number is its own.
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _wait(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout_s)[0]:
            self.returncode = self._parent.reap(self.pid)
            os.close(self._end)
        return self.returncode


class Parent:
    """The process that imports what its children need and forks; it ends with this one.

    Args:
      of_servers: import what servers need, which is not TensorFlow.
    """

    def __init__(self, *, of_servers: bool) -> None:
        self._lock = threading.Lock()  # An answer is to the order before it.
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.environ = {**os.environ, **_ENVIRON}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *["servers"] * of_servers],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._orders.close()
        self._process.wait(timeout=30)

    def fork(self, argv: Sequence[str], environ: Mapping[str, str], output: IO[bytes]) -> int:
        order = json.dumps({"argv": list(argv), "environ": dict(environ), "cwd": os.getcwd()})
        with self._lock:
            socket.send_fds(self._orders, [order.encode()], [output.fileno()])
            return self._answer()

    def reap(self, pid: int) -> int:
        """The exit code of a process that has ended."""
        with self._lock:
            self._orders.send(json.dumps({"reap": pid}).encode())
            return os.waitstatus_to_exitcode(self._answer())

    def _answer(self) -> int:
        answer = self._orders.recv(_MAX_ORDER_BYTES)
        assert answer, f"the parent of test processes ended with {self._process.wait()}"
        return int(json.loads(answer))


_parents: dict[int | None, Parent] = {}
_making = threading.Lock()


def _parent(number: int | None) -> Parent:
    """One of the parents of workers, or with None that of servers."""
    with _making:
        if number not in _parents:
            _parents[number] = Parent(of_servers=number is None)
            atexit.register(_parents[number].close)
    return _parents[number]


def parents() -> set[int]:
    """The numbers of the processes that stay, to fork from, until this one ends."""
    return {parent.pid for parent in _parents.values()}


def start(
    script: Path,
    args: Sequence[str],
    environ: Mapping[str, str],
    output: IO[bytes],
    *,
    rank: int,
    is_fresh: bool = False,
) -> WarmProcess | subprocess.Popen[bytes]:
    """Run a script of Python in a process; both its outputs go to `output`.

    Args:
      is_fresh: import nothing that the script does not.
    """
    argv = [str(script), *args]
    return _start(None if is_fresh else _parent(rank % NUM_PARENTS), argv, environ, output)


def start_server(
    environ: Mapping[str, str], output: IO[bytes]
) -> WarmProcess | subprocess.Popen[bytes]:
    """Run `python -m poseidon_tf server` in a process; both its outputs go to `output`."""
    return _start(_parent(None), ["-m", "poseidon_tf", "server"], environ, output)


def _start(
    parent: Parent | None, argv: Sequence[str], environ: Mapping[str, str], output: IO[bytes]
) -> WarmProcess | subprocess.Popen[bytes]:
    if parent is not None and _early(environ) == _early(parent.environ):
        return WarmProcess(parent, parent.fork(argv, environ, output))
    return subprocess.Popen(
        [sys.executable, *argv],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def _early(environ: Mapping[str, str]) -> dict[str, str]:
    early = {
        name: value
        for name, value in environ.items()
        if name.startswith(_READ_EARLY) and name not in _READ_LATE
    }
    return {**_ENVIRON, **early}


def _serve(orders: socket.socket) -> dict[str, Any]:
    """In the parent: fork and reap as told. Returns in each child, with its order."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, _MAX_ORDER_BYTES, 1)
        if not message:
            sys.exit(0)
        order: dict[str, Any] = json.loads(message)
        if "reap" in order:
            _, answer = os.waitpid(order["reap"], 0)
        else:
            answer = os.fork()
            if answer == 0:
                orders.close()
                for standard in (1, 2):
                    os.dup2(descriptors[0], standard)
            os.close(descriptors[0])
            if answer == 0:
                return order
        orders.send(json.dumps(answer).encode())


def _become(order: Mapping[str, Any]) -> None:
    """In a child: run its script or module as the interpreter would have."""
    import numpy as np

    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    np.random.seed()  # The standard library's generator sees to that itself.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.argv = list(order["argv"])
    if sys.argv[0] == "-m":
        sys.path[0] = os.getcwd()
        _, module, *sys.argv[1:] = sys.argv
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(sys.argv[0]).parent)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = sys.argv[0]
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), main.__dict__)


def _trace_what_tensorflow_calls() -> None:
    """Have coverage see functions that run in TensorFlow's threads, which Python did not start."""
    import tensorflow as tf

    untraced = tf.numpy_function

    def numpy_function(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        @functools.wraps(function)
        def traced(*values: Any) -> Any:
            if sys.gettrace() is None:
                sys.settrace(threading.gettrace())
            return function(*values)

        return untraced(traced, *args, **kwargs)

    tf.numpy_function = numpy_function


if __name__ == "__main__":
    import gc

    if sys.argv[2:] == ["servers"]:
        import poseidon_tf.launch.server_main
        import poseidon_tf.launcher.cli  # noqa: F401
    else:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401

        import poseidon_tf

        poseidon_tf.PoseidonStrategy  # noqa: B018  # Imported when first named.
    num_threads = len(os.listdir("/proc/self/task"))
    assert num_threads == 1, f"{num_threads} threads, {threading.enumerate()}: not to be forked"
    if threading.gettrace() is not None and "tensorflow" in sys.modules:
        _trace_what_tensorflow_calls()
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
