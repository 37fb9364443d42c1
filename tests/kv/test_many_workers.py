"""Many light workers against one real server process: every sum is right, and memory is bounded."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.kv.service import STREAMS_PER_SERVER
from poseidon_tf.transport.frame_queue import FRAME_BYTES
from poseidon_tf.transport.resuming import ACKNOWLEDGE_BYTES
from poseidon_tf.transport.server import Server
from tests.support.jobs import script_named
from tests.support.ports import free_addresses

pytestmark = pytest.mark.processes

MB = 1_000_000
ARE_RIGHT = b"sums are right\n"  # What the clients say when all are.
SMALL = [("a", "float32", 300), ("b", "float64", 200), ("c", "float32", 1), ("d", "float64", 64)]


class LightJob:
    """A coordinator here, a server process, and processes with `num_workers` workers in all."""

    def __init__(
        self,
        folder: Path,
        *,
        num_workers: int,
        num_processes: int,
        num_steps: int,
        keys: list[tuple[str, str, int]] = SMALL,
        window_bytes: int = 64 * 1024,
        delay_share: float = 0.01,
        delay_s: float = 0.05,
        first_rank_late_s: float = 0.0,
    ) -> None:
        self.folder = folder
        self.transport = Server("127.0.0.1:0", max_streams=num_workers + 1)
        (server_address,) = free_addresses(1)
        roster = Roster(
            num_workers=num_workers,
            num_servers=1,
            server_addresses=[server_address],
            data_seed=0,
            incarnation=0,
            start_timeout_s=60.0,
            started_s=time.monotonic(),
        )
        self.coordinator = CoordinatorService(self.transport, roster)
        self.transport.start()
        others = [f"light-worker-{rank}:1" for rank in range(1, num_workers)]
        cluster = {"worker": [self.transport.address, *others], "ps": [server_address]}
        config = {"cluster": cluster, "task": {"type": "ps", "index": 0}}
        self.server = self._start(
            "server", ["-m", "poseidon_tf", "server"], {"TF_CONFIG": json.dumps(config)}
        )
        orders = {
            "coordinator": self.transport.address,
            "num_workers": num_workers,
            "num_steps": num_steps,
            "keys": keys,
            "window_bytes": window_bytes,
            "delay_share": delay_share,
            "delay_s": delay_s,
            "first_rank_late_s": first_rank_late_s,
        }
        share = num_workers // num_processes
        self.clients = [
            self._start(
                f"clients{number}",
                [
                    str(script_named("light_workers.py")),
                    json.dumps(orders),
                    str(number * share),
                    str((number + 1) * share),
                ],
            )
            for number in range(num_processes)
        ]

    def _start(
        self, name: str, command: list[str], environ: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[2]
        with (self.folder / name).open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *command],
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), **(environ or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )

    def outputs(self) -> str:
        """What the processes wrote to standard error."""
        return "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.iterdir())

    def run(self) -> int:
        """The most memory that the server ever had, in bytes; fails if a process does.

        Every wait of the clients has a deadline, so their output ends.
        """
        said = [(client.stdout and client.stdout.read(len(ARE_RIGHT))) for client in self.clients]
        assert said == [ARE_RIGHT] * len(self.clients), f"{said}\n{self.outputs()}"
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.write(b"\n")
            client.stdin.close()
        codes = [process.wait(timeout=60) for process in (*self.clients, self.server)]
        assert not any(codes), f"{codes}\n{self.outputs()}"
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def close(self) -> None:
        for process in (*self.clients, self.server):
            process.kill()
            process.wait(timeout=30)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        self.coordinator.close(timeout_s=1.0)
        self.transport.stop(grace_s=0.0)


MakeJob: TypeAlias = Callable[..., LightJob]


@pytest.fixture
def light_job(tmp_path: Path) -> Iterator[MakeJob]:
    jobs = []

    def make(**options: Any) -> LightJob:
        jobs.append(LightJob(tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


def limit_bytes(keys: list[tuple[str, str, int]], *, num_workers: int, window_bytes: int) -> int:
    """What docs/failures.md states. The frame that a stream is writing is there twice: as ours,
    and as gRPC's copy of it; and what the worker has not confirmed is kept."""
    sizes = {"float32": 4, "float64": 8}
    shard_bytes = sum(sizes[dtype] * size for _, dtype, size in keys)
    stream_bytes = 2 * FRAME_BYTES + ACKNOWLEDGE_BYTES
    return (
        2 * shard_bytes
        + num_workers * (window_bytes + STREAMS_PER_SERVER * stream_bytes)
        + 100 * MB
    )


def test_eight_workers_lose_and_double_nothing(light_job: MakeJob) -> None:
    """50 steps with random delays: every number of every sum, and how many there were."""
    job = light_job(num_workers=8, num_processes=1, num_steps=50)
    assert job.run() < limit_bytes(SMALL, num_workers=8, window_bytes=64 * 1024)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_64_workers_lose_and_double_nothing_in_1000_steps(
    light_job: MakeJob,
) -> None:
    """128 streams into one server, with random delays: 256 000 shares, each in one sum."""
    job = light_job(num_workers=64, num_processes=4, num_steps=1000)
    assert job.run() < limit_bytes(SMALL, num_workers=64, window_bytes=64 * 1024)


@pytest.mark.thorough
@pytest.mark.parametrize("window_bytes, is_small", [(256 * 1024, True), (2**30, False)])
def test_a_server_of_64_workers_stays_within_its_memory(
    light_job: MakeJob, window_bytes: int, is_small: bool
) -> None:
    """Rank 0 is late in every step, so all others fill their windows; with windows that hold
    nothing back the server takes more than the small ones allow."""
    keys = [(f"k{key}", "float32", 16 * 1024) for key in range(256)]
    job = light_job(
        num_workers=64,
        num_processes=4,
        num_steps=3,
        keys=keys,
        window_bytes=window_bytes,
        first_rank_late_s=2.0,
    )
    held_bytes = job.run()
    print(f"window {window_bytes}: the server held {held_bytes / MB:.0f} MB at most")
    is_within = held_bytes < limit_bytes(keys, num_workers=64, window_bytes=256 * 1024)
    assert is_within == is_small
