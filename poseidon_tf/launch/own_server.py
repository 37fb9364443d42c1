"""The server that a worker starts beside itself: a process of its own, watched until it ends.

Rule 1: a fresh process: forking one that has imported TensorFlow deadlocks.
Rule 2: it hears of the worker's end by the end of its standard input, and says how it ended itself
        in one line of JSON, over a socket. Nothing is read out of its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, final

from poseidon_tf.errors import ConfigError, MemberError, PeerLost, PoseidonError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import current_environ
from poseidon_tf.transport.address import Address
from poseidon_tf.transport.base import shortened
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.shared_memory import SharedMemory

END_S = 5.0  # For the process to end when it is told to.
_REASON_CHARS = 4000


@final
class OwnServer:
    """The process of server `config.rank`, from its start to its end.

    Args:
      config: of the worker that starts it.
      start_timeout_s: until when everyone must have arrived.
      ports: first and last port for it; the system's choice if None.
      memory: shared with it.
      on_ended: called once, from another thread, if it ends before `end` was called: with the
        error that stands for that, and whether the job may have told it to.

    Attributes:
      name: how errors call it; with its address once that is known.

    Raises:
      MemberError: the system does not start it.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        start_timeout_s: float,
        ports: tuple[int, int] | None,
        memory: SharedMemory | None,
        settings: ConnectionSettings,
        on_ended: Callable[[PoseidonError, bool], None],
    ) -> None:
        self.name = f"server {config.rank}"
        self._starter = f"worker rank {config.rank} ({config.address})"
        self._on_ended = on_ended
        self._is_told = False
        self._ear, mouth = socket.socketpair()
        descriptors = [] if memory is None else [memory.descriptor]
        with mouth:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "poseidon_tf.launch.server_main"],
                    stdin=subprocess.PIPE,
                    text=True,
                    env={**current_environ(), "TF_CONFIG": ""},
                    pass_fds=[mouth.fileno(), *descriptors],
                )
            except OSError as failure:
                self._ear.close()
                raise MemberError(
                    f"{self.name}, which {self._starter} starts beside itself, cannot be started: "
                    f"{failure}"
                ) from failure
            report = mouth.fileno()
        orders = {
            "workers": config.workers,
            "index": config.rank,
            "address": str(Address.parse(config.address).with_port(0)),
            "ports": ports,
            "start_timeout_s": start_timeout_s,
            "settings": asdict(settings),
            "memory": None if memory is None else memory.descriptor,
            "report": report,
        }
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It has ended, and the watch tells of that.
            self._process.stdin.write(json.dumps(orders) + "\n")
            self._process.stdin.flush()
        self._watch = threading.Thread(
            target=self._watched, name="poseidon-own-server", daemon=True
        )
        self._watch.start()

    def _watched(self) -> None:
        with self._ear.makefile("rb") as lines:
            line = lines.readline()  # Empty when it has ended without a word, or `end` is through.
        report: dict[str, Any] = json.loads(line or b"{}")
        if not self._is_told and not report.get("is_done"):
            self._on_ended(self._error(report), bool(report.get("is_in_order")))

    def _error(self, report: dict[str, Any]) -> PoseidonError:
        who = f"{self.name}, which {self._starter} has started beside itself, has ended"
        if "text" in report:
            kind = ConfigError if report["is_config"] else MemberError
            return kind(f"{who}: {report['text']}")
        code = self._process.wait()  # The socket is closed, so it is about to be over.
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; if nobody sent it, the system has run out of memory" * (name == "SIGKILL")
            return PeerLost(f"{who}: it was killed by {name}{hint}")
        return PeerLost(f"{who} with code {code} before it could say why; see what it printed")

    def end(self, *, failed: bool) -> None:
        """Have it end: at once, or with the job, as other workers may still need it."""
        self._is_told = True
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It has ended already.
            if not failed:
                stdin.write("leave")
            stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            if failed:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(OSError):  # Where a socket is not connected any more.
            self._ear.shutdown(socket.SHUT_RDWR)
        self._watch.join()
        self._ear.close()


def report_end(descriptor: int, failure: BaseException | None, *, is_in_order: bool) -> None:
    """Tell the worker that has started this process how it ends.

    Args:
      descriptor: of the socket that the worker has named.
      failure: None if the job is done.
      is_in_order: whether the job may have told it to: the worker hears of that by itself.
    """
    report: dict[str, Any] = {"is_done": failure is None, "is_in_order": is_in_order}
    if failure is not None:
        text = str(failure) if isinstance(failure, PoseidonError) else repr(failure)
        report["text"] = shortened(text, most_chars=_REASON_CHARS)
        report["is_config"] = isinstance(failure, ConfigError)
    with contextlib.suppress(BrokenPipeError):  # The worker is gone.
        os.write(descriptor, json.dumps(report).encode() + b"\n")
