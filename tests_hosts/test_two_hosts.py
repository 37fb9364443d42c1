"""Two hosts with their own addresses: nothing but TF_CONFIG and `poseidon-tf server`.

Needs root and iproute2: each host is a network namespace on one bridge.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "support" / "scripts" / "wire.py"
HOSTS = ("poseidon1", "poseidon2")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
BRIDGE = "poseidonbr"


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture()
def hosts() -> Iterator[None]:
    """Two namespaces, each with an address on one unshaped bridge."""
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("link", "set", BRIDGE, "up")
        for number, (host, address) in enumerate(zip(HOSTS, ADDRESSES, strict=True)):
            ip("netns", "add", host)
            ip("link", "add", f"pv{number}", "type", "veth", "peer", "eth0", "netns", host)
            ip("link", "set", f"pv{number}", "master", BRIDGE, "up")
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
        ip("link", "del", BRIDGE)


def start(host: int, kind: str, command: list[str], output: Path) -> subprocess.Popen[bytes]:
    cluster = {
        "worker": [f"{address}:5000" for address in ADDRESSES],
        "ps": [f"{address}:6000" for address in ADDRESSES],
    }
    config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": host}})
    with output.open("wb") as stream:
        return subprocess.Popen(
            ["ip", "netns", "exec", HOSTS[host], *command],
            env={
                **os.environ,
                "TF_CONFIG": config,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_NUM_INTRAOP_THREADS": "1",
                "INTERFACE": "eth0",
            },
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def results(output: Path) -> dict[str, Any]:
    lines = [line.split(" ", 2) for line in output.read_text().splitlines() if "RESULT" in line]
    return {name: json.loads(value) for _, name, value in lines}


@pytest.mark.parametrize(
    "scheme, dtype",
    [("ps", "float32"), ("sfb", "float32"), ("ps", "bfloat16"), ("sfb", "bfloat16")],
)
def test_the_interface_carries_what_the_plan_said(
    hosts: None, tmp_path: Path, scheme: str, dtype: str
) -> None:
    """Bytes of the kernel's counters over 20 steps are at most 3 % above the payload.

    All gradients by servers, rounded to 16 bits, are two bytes a parameter each way.
    """
    processes = {}
    for host in (0, 1):
        server = [sys.executable, "-m", "poseidon_tf", "server"]
        processes[f"server{host}"] = start(host, "ps", server, tmp_path / f"server{host}")
        worker = [sys.executable, str(SCRIPT), scheme, dtype]
        processes[f"worker{host}"] = start(host, "worker", worker, tmp_path / f"worker{host}")
    codes = {name: process.wait(timeout=120) for name, process in processes.items()}
    outputs = "\n".join((tmp_path / name).read_text()[-3000:] for name in codes)
    assert not any(codes.values()), f"{codes}\n{outputs}"
    on_wire = payload = 0
    for host in (0, 1):
        found = results(tmp_path / f"worker{host}")
        first, last = found["interface_1"], found["interface_21"]
        on_wire += last["rx"] - first["rx"] + last["tx"] - first["tx"]
        # What a worker exchanges with the server on its own host does not leave it; with even
        # shards that is half, and the other host's worker adds as much as it takes away.
        for group, crossing in (("ps", 2 * 0.5), ("sfb", 1)):
            for way in ("sent_bytes", "received_bytes"):
                payload += crossing * (found["step_21"][group][way] - found["step_1"][group][way])
    if scheme == "ps":
        width = 4 if dtype == "float32" else 2
        assert payload == len(HOSTS) * 20 * 2 * found["parameters"] * width
    print(f"{scheme} {dtype}: payload {payload:.0f} bytes, on the interfaces {on_wire} bytes")
    assert payload < on_wire <= 1.03 * payload
