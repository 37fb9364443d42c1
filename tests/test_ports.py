"""Ports that tests give to their processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_addresses

COUNT = 150
OTHER = f"""
from tests.support.ports import free_addresses
print(*free_addresses({COUNT}), flush=True)
input()  # Until the test has taken its own.
"""


def ports(addresses: list[str]) -> set[int]:
    return {int(address.rpartition(":")[2]) for address in addresses}


@pytest.mark.processes
def test_no_port_is_given_to_two_test_processes_or_by_the_system() -> None:
    """Between the choice of a port and the process that listens on it nobody else may take it."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = ports(other.stdout.readline().split())
        ours = ports([*free_addresses(COUNT), *free_addresses(2, "::1")])
        other.communicate("\n")
    assert len(theirs) == COUNT and len(ours) == COUNT + 2
    assert not ours & theirs
    first_of_system = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ours | theirs) < first_of_system


@pytest.mark.connections
def test_ports_are_given_again_as_late_as_possible() -> None:
    """A process that has just ended may still hold its own."""
    first, second = ports(free_addresses(COUNT // 2)), ports(free_addresses(COUNT // 2))
    assert not first & second
