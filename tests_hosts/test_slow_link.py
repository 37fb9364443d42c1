"""Three hosts of which one sends slowly: `poseidon-tf probe` finds out which.

Needs root, iproute2 and a kernel with the token bucket filter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests_hosts.emulated_hosts import emulated_hosts

RATE, SLOW_RATE = 400e6, 40e6


@pytest.fixture
def hosts() -> Iterator[Any]:
    """Three of the benchmarks' emulated hosts."""
    with emulated_hosts(3) as found:
        yield found


def test_the_ways_from_a_host_that_sends_slowly_are_marked(hosts: Any) -> None:
    """Of links with 400 Mbit/s one is shaped to 40 where host 2 sends, and nowhere else."""
    hosts.set_rate(RATE)
    slow = ["rate", f"{SLOW_RATE:.0f}bit", "burst", "65536", "latency", "200ms"]
    shape = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *slow]
    subprocess.run(hosts.command(2, shape), check=True)
    cluster = {"worker": hosts.addresses()}
    processes = []
    for rank in range(3):
        config = {"cluster": cluster, "task": {"type": "worker", "index": rank}}
        command = [sys.executable, "-m", "poseidon_tf", "probe", "--json"]
        processes.append(
            subprocess.Popen(
                hosts.command(rank, command),
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = json.loads(printed[0])
    slow_ways = {(way["sender"], way["receiver"]) for way in found["slow"]}
    assert slow_ways >= {("worker 2", "worker 0"), ("worker 2", "worker 1")}
    # What comes to host 2 may be slow as well: its acknowledgements wait behind what it sends.
    assert not slow_ways & {("worker 0", "worker 1"), ("worker 1", "worker 0")}
    for receiver in range(2):
        way = found["workers"][receiver]["workers"][2]
        assert 0.1 * SLOW_RATE < way["bits_per_s"] < 2 * SLOW_RATE
