"""One process per host, all of which obey the same orders: JSON lines in, JSON lines out."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lab.hosts import Hosts

WORKERS = Path(__file__).resolve().parent.parent / "workers"
# The same for every process: it shares this machine with others, and is measured against them.
PINNED = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "4",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    # As pip leaves a package: compiled. Else every process compiles what it imports, where this
    # process was told not to keep what is compiled.
    "PYTHONDONTWRITEBYTECODE": "",
    # TensorFlow's own default where the processor has AVX-512. Without it products take up to eight
    # times as long, and the figures of two machines would be of two kinds of arithmetic.
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


class Members:
    """Runs `workers/<script>` on the first `count` of `hosts`.

    Every process finds the others in TF_CONFIG; with one there is none, and it works alone.

    Args:
      servers: dedicated parameter servers of poseidon_tf, on as many hosts after those; they end
        with the job.
      python: the interpreter, of this or another virtual environment.
      environ: on top of this process's and `PINNED`.
    """

    def __init__(
        self,
        hosts: Hosts,
        script: str,
        *,
        count: int,
        servers: int = 0,
        python: str,
        args: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._hosts, self._count, self._num_servers = hosts, count, servers
        self._command = [python, str(WORKERS / script), *args]
        self._server_command = [python, "-m", "poseidon_tf", "server"]
        self._environ = {**os.environ, **PINNED, **(environ or {})}
        self._processes: list[subprocess.Popen[str]] = []
        self._servers: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def __enter__(self) -> Members:
        addresses = self._hosts.addresses()
        cluster = {"worker": addresses[: self._count]}
        if self._num_servers:
            cluster["ps"] = addresses[self._count : self._count + self._num_servers]
        for index in range(self._num_servers):
            config = {"cluster": cluster, "task": {"type": "ps", "index": index}}
            self._servers.append(
                subprocess.Popen(
                    self._hosts.command(self._count + index, self._server_command),
                    env={**self._environ, "TF_CONFIG": json.dumps(config)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        for rank in range(self._count):
            config = {"cluster": cluster, "task": {"type": "worker", "index": rank}}
            self._logs.append(tempfile.TemporaryFile())
            self._processes.append(
                subprocess.Popen(
                    self._hosts.command(rank, self._command),
                    env={
                        **self._environ,
                        "TF_CONFIG": json.dumps(config) if self._count > 1 else "",
                    },
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._logs[rank],
                    text=True,
                )
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.close()
            except BrokenPipeError:
                continue  # It has ended already.
        deadline_s = time.monotonic() + (30.0 if error is None else 1.0)
        started: list[subprocess.Popen[Any]] = [*self._processes, *self._servers]
        for each in started:
            try:
                each.wait(timeout=max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        for log in self._logs:
            log.close()

    def ask(self, do: str, *, timeout_s: float = 600.0, **order: Any) -> list[Any]:
        """Give every process the order `do`; their answers, by rank.

        Raises:
          RuntimeError: one of them ended, or did not answer in time; with the end of its log.
        """
        deadline_s = time.monotonic() + timeout_s
        answers: dict[int, Any] = {}
        with selectors.DefaultSelector() as selector:
            for rank, process in enumerate(self._processes):
                assert process.stdin is not None and process.stdout is not None
                try:
                    process.stdin.write(json.dumps({"do": do, **order}) + "\n")
                    process.stdin.flush()
                except BrokenPipeError:
                    raise RuntimeError(self._last_words(rank, "has ended")) from None
                selector.register(process.stdout, selectors.EVENT_READ, rank)
            while len(answers) < self._count:
                ready = selector.select(max(0.0, deadline_s - time.monotonic()))
                if not ready:
                    late = min(set(range(self._count)) - set(answers))
                    raise RuntimeError(self._last_words(late, f"no answer to {do!r} in time"))
                for key, _ in ready:
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if not line:
                        raise RuntimeError(self._last_words(key.data, f"ended during {do!r}"))
                    answers[key.data] = json.loads(line)
                    selector.unregister(key.fileobj)
        return [answers[rank] for rank in range(self._count)]

    def pids(self) -> list[int]:
        """Of the processes, by rank."""
        return [process.pid for process in self._processes]

    def _last_words(self, rank: int, what: str) -> str:
        self._logs[rank].seek(0)
        log = self._logs[rank].read().decode(errors="replace")
        return f"{' '.join(self._command)} of rank {rank}: {what}\n{log[-4000:]}"
