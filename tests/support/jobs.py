"""Starts real worker and server processes for a test and collects what they print."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import warm
from tests.support.network import Network
from tests.support.ports import free_addresses
from tests.support.warm import WarmProcess

_ROOT = Path(__file__).parents[2]
# What several scripts import. To put it there now is in time: processes are started later.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
HOST_PORT = 5000  # Of every member that has a host of its own.


def script_named(name: str | Path) -> Path:
    """The script of this name, in `scripts/` beside the test that starts it; or of this path."""
    if Path(name).is_absolute():
        return Path(name)
    found = [*_ROOT.glob(f"tests/*/scripts/{name}"), *_ROOT.glob(f"tests_hosts/scripts/{name}")]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@dataclass
class Member:
    """One process of a job."""

    role: str
    rank: int
    address: str
    process: WarmProcess | subprocess.Popen[bytes]
    output_path: Path

    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def results(self) -> dict[str, Any]:
        """What the script printed as `RESULT name json` lines."""
        found = {}
        for line in self.output().splitlines():
            if line.startswith("RESULT "):
                _, name, value = line.split(" ", 2)
                found[name] = json.loads(value)
        return found


class Job:
    """Workers that run one script, and servers; a context manager that leaves nothing behind.

    Args:
      name: of the script that all workers run, see `script_named`; or its path.
      num_servers: 0 for a server on each worker's own host.
      start_servers: False if the script of some worker serves.
      servers_run_script: start the script as task "ps" too, as one image for all roles does.
      network: a host for each worker, and then for each server. Scripts go there by themselves,
        with `namespace.go_to_host()`.
      host: of all members, without a network.
    """

    def __init__(
        self,
        name: str | Path,
        *args: str,
        num_workers: int = 2,
        num_servers: int = 1,
        environ: Mapping[str, str] | None = None,
        rank_environ: Mapping[int, Mapping[str, str]] | None = None,
        start_servers: bool = True,
        servers_run_script: bool = False,
        network: Network | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._script = script_named(name)
        self._args = args
        self._start_servers = start_servers
        self._servers_run_script = servers_run_script
        self._environ = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "4",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONUNBUFFERED": "1",
            **(environ or {}),
        }
        self._rank_environ = rank_environ or {}
        self._network = network
        if network is None:
            addresses = free_addresses(num_workers + num_servers, host)
        else:
            addresses = [f"{address}:{HOST_PORT}" for address in network.addresses]
        self.cluster = {"worker": addresses[:num_workers]}
        if num_servers:
            self.cluster["ps"] = addresses[num_workers:]
        self._folder = tempfile.TemporaryDirectory()
        self.workers: list[Member] = []
        self.servers: list[Member] = []

    def __enter__(self) -> Job:
        for index in range(len(self.cluster.get("ps", [])) * self._start_servers):
            self.servers.append(self.start("ps", index))
        for rank in range(len(self.cluster["worker"])):
            self.workers.append(self.start("worker", rank))
        return self

    def __exit__(self, *exception: object) -> None:
        for member in (*self.workers, *self.servers):
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait(timeout=30)
        self._folder.cleanup()

    def start(self, kind: str, index: int) -> Member:
        """Start one process of the cluster; `kind` is "worker" or "ps"."""
        config = {"cluster": self.cluster, "task": {"type": kind, "index": index}}
        path = Path(self._folder.name) / f"{kind}-{index}.txt"
        extra = self._rank_environ.get(index, {}) if kind == "worker" else {}
        environ = {**self._environ, "TF_CONFIG": json.dumps(config), **extra}
        inside: list[str] = []
        if self._network is not None:
            host = index if kind == "worker" else len(self.cluster["worker"]) + index
            environ["TEST_NAMESPACE"] = self._network.namespaces[host]
            inside = ["ip", "netns", "exec", self._network.namespaces[host]]
        process: WarmProcess | subprocess.Popen[bytes]
        with path.open("wb") as output:
            if kind == "ps" and not self._servers_run_script and not inside:
                process = warm.start_server(environ, output)
            elif kind == "ps" and not self._servers_run_script:
                process = subprocess.Popen(
                    [*inside, sys.executable, "-m", "poseidon_tf", "server"],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            else:
                process = warm.start(self._script, self._args, environ, output, rank=index)
        return Member(kind, index, self.cluster[kind][index], process, path)

    def wait(self, *, timeout_s: float = 120.0, after_failure_s: float = 20.0) -> list[int]:
        """Exit codes of the workers, then of the servers.

        Once one has failed the others get `after_failure_s` seconds to notice; who has not then
        is killed, and its code says so.
        """
        members = (*self.workers, *self.servers)
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            for member in members:
                descriptor = os.pidfd_open(member.process.pid)
                selector.register(descriptor, selectors.EVENT_READ, member)
            while selector.get_map() and (left_s := deadline_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    if key.data.process.wait():
                        deadline_s = min(deadline_s, time.monotonic() + after_failure_s)
            for key in list(selector.get_map().values()):
                os.close(key.fd)
                key.data.process.kill()
        return [member.process.wait() for member in members]

    def results(self, *, timeout_s: float = 120.0) -> list[dict[str, Any]]:
        """By rank, what each worker printed; fails with its output if a process failed."""
        codes = self.wait(timeout_s=timeout_s)
        outputs = "\n".join(
            f"--- {m.role} {m.rank}\n{m.output()[-4000:]}" for m in (*self.workers, *self.servers)
        )
        assert not any(codes), f"exit codes {codes}\n{outputs}"
        return [worker.results() for worker in self.workers]


def run_alone(
    name: str | Path,
    *args: str,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
    is_fresh: bool = False,
) -> dict[str, Any]:
    """The same script in one process without TF_CONFIG.

    Args:
      is_fresh: nothing has been imported before, as where a user starts it.
    """
    environ = {
        **{name: value for name, value in os.environ.items() if name != "TF_CONFIG"},
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        **(environ or {}),
    }
    with tempfile.TemporaryFile() as output:
        process = warm.start(script_named(name), args, environ, output, rank=0, is_fresh=is_fresh)
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        printed = output.read().decode(errors="replace")
    assert code == 0, printed[-8000:]
    return dict(
        (line.split(" ", 2)[1], json.loads(line.split(" ", 2)[2]))
        for line in printed.splitlines()
        if line.startswith("RESULT ")
    )
