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
import fcntl
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

# Processes of servers, which have no TensorFlow; and of workers, which end as the interpreter does,
# or without the last part of that. Of a job with two workers one is of each kind.
SERVERS, WHOLE, SHORT = "servers", "whole", "short"
OF_WORKERS = (WHOLE, SHORT)
# What imports may look at: a process in which one of these differs cannot be forked.
_READ_EARLY = ("CUDA", "KERAS", "MKL", "OMP", "OPENBLAS", "PYTHON", "TF_", "XLA")
_READ_LATE = (
    "PYTHONIOENCODING",
    "PYTHONUNBUFFERED",
    "TF_CONFIG",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
# Without its own threads NumPy leaves the parent with one.
_ENVIRON = {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
_MAX_ORDER_BYTES = 128 * 1024
_MAX_FILES = 3


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
      kind: of the processes that it forks.
    """

    def __init__(self, kind: str) -> None:
        self._lock = threading.Lock()  # An answer is to the order before it.
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.environ = {**os.environ, **_ENVIRON}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), kind],
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

    def fork(
        self, argv: Sequence[str], environ: Mapping[str, str], outputs: Sequence[IO[bytes]]
    ) -> int:
        with self._lock:
            send_order(self._orders, argv, environ, [(1, outputs[0]), (2, outputs[-1])])
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


_parents: dict[str, Parent] = {}
_making = threading.Lock()


def _parent(kind: str) -> Parent:
    with _making:
        if kind not in _parents:
            _parents[kind] = Parent(kind)
            atexit.register(_parents[kind].close)
    return _parents[kind]


def parents() -> set[int]:
    """The numbers of the processes that stay, to fork from, until this one ends."""
    return {parent.pid for parent in _parents.values()}


def start(
    script: Path,
    args: Sequence[str],
    environ: Mapping[str, str],
    *outputs: IO[bytes],
    rank: int,
    is_fresh: bool = False,
) -> WarmProcess | subprocess.Popen[bytes]:
    """Run a script of Python in a process.

    Args:
      outputs: where its standard output and its errors go; one for both.
      is_fresh: import nothing that the script does not.
    """
    argv = [str(script), *args]
    return _start(
        None if is_fresh else _parent(OF_WORKERS[rank % len(OF_WORKERS)]), argv, environ, outputs
    )


def start_launcher(
    args: Sequence[str], environ: Mapping[str, str], *outputs: IO[bytes]
) -> WarmProcess | subprocess.Popen[bytes]:
    """Run `poseidon-tf`, whose workers will have TensorFlow imported already; see `start`."""
    return _start(_parent(WHOLE), ["-m", "tests.support.warm_launcher", *args], environ, outputs)


def start_server(
    environ: Mapping[str, str], output: IO[bytes]
) -> WarmProcess | subprocess.Popen[bytes]:
    """Run `python -m poseidon_tf server` in a process; both its outputs go to `output`."""
    return _start(_parent(SERVERS), ["-m", "poseidon_tf", "server"], environ, [output])


def _start(
    parent: Parent | None,
    argv: Sequence[str],
    environ: Mapping[str, str],
    outputs: Sequence[IO[bytes]],
) -> WarmProcess | subprocess.Popen[bytes]:
    if parent is not None and early(environ) == early(parent.environ):
        return WarmProcess(parent, parent.fork(argv, environ, outputs))
    return subprocess.Popen(
        [sys.executable, *argv],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=outputs[0],
        stderr=outputs[-1],
    )


def early(environ: Mapping[str, str]) -> dict[str, str]:
    """What imports may have looked at; equal where a process may be forked instead of started."""
    found = {
        name: value
        for name, value in environ.items()
        if name.startswith(_READ_EARLY) and name not in _READ_LATE
    }
    return {**_ENVIRON, **found}


def send_order(
    orders: socket.socket,
    argv: Sequence[str],
    environ: Mapping[str, str],
    files: Sequence[tuple[int, Any]],
    **more: bool,
) -> None:
    """Order a process.

    Args:
      files: by the number that each gets there: what has a `fileno`, or a descriptor.
      more: `is_left` to whoever ordered it, who is the one to wait for it; `leads` a session.
    """
    order = {"argv": list(argv), "environ": dict(environ), "cwd": os.getcwd(), **more}
    order["files"] = [number for number, _ in files]
    descriptors = [each if isinstance(each, int) else each.fileno() for _, each in files]
    socket.send_fds(orders, [json.dumps(order).encode()], descriptors)


def serve(orders: socket.socket) -> dict[str, Any]:
    """In the parent: fork and reap as told. Returns in each child, with its order."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, _MAX_ORDER_BYTES, _MAX_FILES)
        if not message:
            sys.exit(0)
        order: dict[str, Any] = json.loads(message)
        if "reap" in order:
            _, answer = os.waitpid(order["reap"], 0)
        else:
            answer = _fork_left() if order.get("is_left") else os.fork()
            if answer == 0:
                orders.close()
                if order.get("leads"):
                    os.setsid()
                _take_files(order["files"], descriptors)
                return order
            for descriptor in descriptors:
                os.close(descriptor)
        orders.send(json.dumps(answer).encode())


def _fork_left() -> int:
    """As `os.fork`, but the child is that of the next process up that takes such children."""
    read, write = os.pipe()
    between = os.fork()
    if between:
        os.close(write)
        os.waitpid(between, 0)  # By then the child has been left.
        child = int(os.read(read, 100))
        os.close(read)
        return child
    if child := os.fork():
        os.write(write, str(child).encode())
        os._exit(0)
    os.close(read)
    os.close(write)
    return 0


def _take_files(numbers: Sequence[int], descriptors: Sequence[int]) -> None:
    """Give each descriptor its number; one may be that of another."""
    held = [fcntl.fcntl(each, fcntl.F_DUPFD, max(numbers) + 1) for each in descriptors]
    for each in descriptors:
        os.close(each)
    for number, each in zip(numbers, held, strict=True):
        os.dup2(each, number)
        os.close(each)


def become(order: Mapping[str, Any]) -> None:
    """In a child: run its script or module as the interpreter would have."""
    import numpy as np

    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    np.random.seed()  # The standard library's generator sees to that itself.
    if encoding := order["environ"].get("PYTHONIOENCODING"):
        sys.stdout, sys.stderr = (
            open(number, "w", encoding=encoding, closefd=False) for number in (1, 2)
        )
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.argv = list(order["argv"])
    if sys.argv[0] == "-m":
        sys.path[0] = str(Path(__file__).parents[2])
        _, module, *sys.argv[1:] = sys.argv
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(sys.argv[0]).parent)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = sys.argv[0]
    script = compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec")
    try:
        exec(script, main.__dict__)
    except Exception as error:  # As the interpreter, which knows of no caller of a script.
        assert error.__traceback__ is not None
        shown = error.with_traceback(error.__traceback__.tb_next)
        sys.excepthook(type(shown), shown, shown.__traceback__)
        sys.exit(1)


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


def _end_at_once(code: int) -> None:
    """In a child, when all else has been done at exit: leave modules and what they hold as they
    are. To take TensorFlow apart takes a quarter of the CPU of a short script."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _code_of(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else int(end.code is not None)


if __name__ == "__main__":
    import gc

    kind = sys.argv[2]
    code: list[int] = []  # Of a child whose script has ended as scripts do.
    if kind == SHORT:  # Before whatever an import registers, so that it comes last.
        atexit.register(lambda: _end_at_once(*code) if code else None)
    if kind == SERVERS:
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
    order = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        become(order)
    except SystemExit as end:
        code.append(_code_of(end))
        raise
    except Exception:
        code.append(1)
        raise
    code.append(0)
