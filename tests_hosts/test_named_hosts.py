"""Two hosts that know each other by name, and only rank 0's is told: as under a scheduler.

Each takes its own name for an address of the loopback interface, as Debian installs it. Needs
root and iproute2: each host is a network namespace, with an /etc/hosts of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poseidon_tf.transport.address import Address
from tests.support.jobs import script_named
from tests.support.network import Network

pytestmark = pytest.mark.processes
SCRIPT = script_named("joined.py")
NAMES = ("node01", "node02")


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2) as network:
        folders = [Path("/etc/netns") / name for name in network.namespaces]
        try:
            for own, folder in enumerate(folders):
                folder.mkdir(parents=True)
                lines = ["127.0.0.1 localhost"]
                for host, name in enumerate(NAMES):
                    address = "127.0.1.1" if host == own else network.addresses[host]
                    lines.append(f"{address} {name}")
                (folder / "hosts").write_text("\n".join(lines) + "\n")
            yield network
        finally:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("interface", ["", "eth0"])
def test_tasks_of_slurm_on_several_hosts_join(
    network: Network, tmp_path: Path, interface: str
) -> None:
    """Rank 0 is reached by its name, and no worker announces one that means another host there."""
    environ = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "node[01-02]",
        "POSEIDON_INTERFACE": interface,
    }
    processes = []
    for rank, name in enumerate(network.namespaces):
        with (tmp_path / str(rank)).open("wb") as output:
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", name, sys.executable, str(SCRIPT), "once"],
                    env={**environ, "SLURM_PROCID": str(rank)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    codes = [process.wait(timeout=200) for process in processes]
    texts = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    chief, worker = (
        {line.split(" ", 2)[1]: json.loads(line.split(" ", 2)[2]) for line in lines}
        for lines in (
            [ln for ln in text.splitlines() if ln.startswith("RESULT ")] for text in texts
        )
    )
    assert chief["digest"] == worker["digest"]
    first, second = map(Address.parse, worker["cluster"]["worker"])
    assert (first.host, second.host) == ("node01", network.addresses[1])


def test_rank_0_that_is_not_where_it_should_be_says_so_at_once(
    network: Network, tmp_path: Path
) -> None:
    """It does not call itself there until its time to start is over."""
    environ = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "POSEIDON_RANK": "0",
        "POSEIDON_WORLD_SIZE": "2",
        "POSEIDON_COORDINATOR": "node02:5000",
    }
    begun_s = time.monotonic()
    ended = subprocess.run(
        ["ip", "netns", "exec", network.namespaces[0]]
        + [sys.executable, str(script_named("bad_start.py")), "100"],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90.0,
    )
    assert ended.returncode == 1 and time.monotonic() - begun_s < 60.0, ended.stderr
    says = (
        "ConfigError: worker rank 0 is to be reached at node02:5000, which is no address of this "
        f"machine (it has {network.addresses[0]}"
    )
    assert says in ended.stdout and "Connection refused" in ended.stdout, ended.stdout
