"""What the link itself carries, by iperf3, with the CPU time that it takes."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from lab.hosts import Hosts


def iperf3(hosts: Hosts, *, both_ways: bool, seconds: int) -> dict[str, float] | None:
    """From host 1 to host 0: GB/s (each way), and CPU seconds per GB of both ends together.

    None where iperf3 is not installed.
    """
    if shutil.which("iperf3") is None:
        return None
    host, _, port = hosts.addresses()[0].rpartition(":")
    server = subprocess.Popen(
        hosts.command(0, ["iperf3", "-s", "-1", "-p", port, "--forceflush"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "listening" in line:
                break
        client = ["iperf3", "-c", host, "-p", port, "-t", str(seconds), "-J"]
        done = subprocess.run(
            hosts.command(1, [*client, "--bidir"] if both_ways else client),
            capture_output=True,
            text=True,
            timeout=seconds + 30,
        )
        if done.returncode:
            raise RuntimeError(f"iperf3 to {host}:{port}: {done.stdout[-500:]}{done.stderr}")
    except BaseException:
        server.kill()
        raise
    finally:
        server.communicate(timeout=10.0)
    return _figures(json.loads(done.stdout)["end"])


def _figures(end: dict[str, Any]) -> dict[str, float]:
    ways = [end[way] for way in ("sum_received", "sum_received_bidir_reverse") if way in end]
    num_bytes = sum(way["bytes"] for way in ways)
    percent = end["cpu_utilization_percent"]
    cpu_s = (percent["host_total"] + percent["remote_total"]) / 100 * ways[0]["seconds"]
    return {
        # The mean of the two ways: neither is the other's side effect.
        "GB/s": sum(way["bits_per_second"] for way in ways) / len(ways) / 8e9,
        "CPU s/GB": cpu_s / (num_bytes / 1e9),
    }
