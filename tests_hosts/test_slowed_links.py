"""Links that become slow while a job trains: both hosts send by another plan.

Needs root, iproute2 and a kernel with the token bucket filter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests_hosts.emulated_hosts import emulated_hosts

SCRIPT = Path(__file__).parent / "scripts" / "slowed.py"
RATE, SLOW_RATE = 400e6, 4e6
WAIT_S = 180.0


@pytest.fixture
def hosts() -> Iterator[Any]:
    """Two of the benchmarks' emulated hosts."""
    with emulated_hosts(2) as found:
        yield found


def started(hosts: Any, rank: int, addresses: list[str]) -> subprocess.Popen[str]:
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    environ = {
        **os.environ,
        "TF_CONFIG": json.dumps(config),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    return subprocess.Popen(
        hosts.command(rank, [sys.executable, str(SCRIPT)]),
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_links_that_become_slow_get_another_plan(hosts: Any) -> None:
    """From 400 to 4 Mbit/s, all ways, after the first epoch: the gradient of a kernel would take a
    second then. A look at links takes one, too."""
    hosts.set_rate(RATE)
    addresses = hosts.addresses()
    processes = [started(hosts, rank, addresses) for rank in range(2)]

    def give_up() -> None:
        for process in processes:
            process.kill()

    end = threading.Timer(WAIT_S, give_up)
    end.start()
    try:
        first = processes[0]
        assert first.stdin is not None and first.stdout is not None
        before = []
        for line in first.stdout:
            before.append(line)
            if line.startswith("EPOCH "):
                break
        hosts.set_rate(SLOW_RATE)
        printed = [
            process.communicate("\n" * (rank == 0))[0] for rank, process in enumerate(processes)
        ]
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        end.cancel()
        give_up()
        for process in processes:
            process.wait()
    printed[0] = "".join(before) + printed[0]
    by_rank = [
        [json.loads(line[6:]) for line in text.splitlines() if line.startswith("EPOCH ")]
        for text in printed
    ]
    for epochs in by_rank:
        assert [schemes for schemes, _, _ in epochs] == [
            ["ps"] * 4,
            *[["sfb"] * 2 + ["ps"] * 2] * 2,
        ]
        assert all(took_s < 3.0 for _, took_s, _ in epochs)
    assert [weights for _, _, weights in by_rank[0]] == [weights for _, _, weights in by_rank[1]]
    (line,) = [each for each in printed[0].splitlines() if each.startswith("LOG planned anew: ")]
    assert "links carry " in line and "with the plan until now" in line
