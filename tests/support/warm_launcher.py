"""`poseidon-tf`, in a process that has TensorFlow and whose workers are forked from one that has.

The launcher is the real one, and so is all that its members do; a worker only does not import
TensorFlow anew, which takes most of the CPU of a short job. Run by `launched.run`.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from tests.support import warm

_PR_SET_CHILD_SUBREAPER = 36  # Of <linux/prctl.h>.


class Forked:
    """What the launcher uses of `subprocess.Popen`, of a process that was forked."""

    def __init__(
        self,
        orders: socket.socket,
        argv: Sequence[str],
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
    ) -> None:
        self.stdout, out = _pipe()
        self.stderr, errors = _pipe()
        files = [(1, out), (2, errors), *((number, number) for number in pass_fds)]
        warm.send_order(orders, argv, environ, files, is_left=True, leads=True)
        self.pid = int(json.loads(orders.recv(100)))
        for each in (out, errors):
            os.close(each)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _pipe() -> tuple[IO[bytes], int]:
    read, write = os.pipe()
    return open(read, "rb"), write


def launch(orders: socket.socket) -> None:
    """Be the launcher; its workers are ordered from a process that has TensorFlow."""
    from poseidon_tf.launcher import cli, members

    environ = dict(os.environ)

    def start(argv: Sequence[str], *, env: Mapping[str, str], **how: Any) -> Any:
        script = list(argv[2:])
        is_script = list(argv[:2]) == [sys.executable, "-u"] and script[0].endswith(".py")
        if is_script and warm.early(env) == warm.early(environ):
            return Forked(orders, script, env, how["pass_fds"])
        return subprocess.Popen(argv, env=env, **how)

    class Starting:
        """The module `subprocess`, as the launcher's members see it."""

        PIPE, DEVNULL, Popen = subprocess.PIPE, subprocess.DEVNULL, staticmethod(start)

    members.subprocess = Starting  # type: ignore[assignment,attr-defined]
    cli.main(prog_name="poseidon-tf")


ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
# What the other one forks becomes a child of this one, as if it had started it.
if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "prctl")
if other := os.fork():
    theirs.close()
    try:
        launch(ours)
    finally:
        ours.close()
        os.waitpid(other, 0)
else:
    ours.close()
    warm.become(warm.serve(theirs))
