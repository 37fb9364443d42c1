"""Links that delay, lose, double, reorder and corrupt packets, and connections that are reset:
a training run ends with the bits that it has without them.

Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

import pytest

from tests.faults.fault_matrix import SAME_WEIGHTS, undisturbed_digest
from tests.support.fault_table import Note
from tests.support.jobs import Job
from tests.support.network import Network, Trouble

# Script's arguments: nobody to call, no rank, no point; nothing here is silent for long.
UNDISTURBED = ("nobody", "-1", "never", "30")
TROUBLES = {
    "20 ms +- 10 ms late": Trouble(delay_s=0.02, jitter_s=0.01),
    "1 % lost": Trouble(delay_s=0.002, loss=0.01),
    "5 % lost": Trouble(delay_s=0.002, loss=0.05),
    "25 % reordered": Trouble(delay_s=0.005, reorder=0.25),
    "1 % corrupted": Trouble(corrupt=0.01),
    "5 % corrupted": Trouble(corrupt=0.05),
    "5 % doubled": Trouble(duplicate=0.05),
    "all at once": Trouble(
        delay_s=0.005, jitter_s=0.003, loss=0.02, reorder=0.05, corrupt=0.02, duplicate=0.02
    ),
}


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return undisturbed_digest(num_servers=1)


@pytest.mark.parametrize("protocol", ["grpc", "grpc+tcp"])
@pytest.mark.parametrize("name", TROUBLES)
def test_what_happens_to_packets_changes_no_bit(
    name: str, protocol: str, repetition: int, undisturbed: str, note: Note
) -> None:
    """Two workers and a server, on three hosts; sums through the server, and factors."""
    trouble = TROUBLES[name]
    with Network(3) as network:
        network.set_trouble(trouble)
        environ = {"POSEIDON_PROTOCOL": protocol}
        job = Job(
            "faulty.py", *UNDISTURBED, servers_run_script=True, network=network, environ=environ
        )
        with job:
            digests = [found["digest"] for found in job.results()]
        counts = network.counts
        refused = sum(network.tcp_count(host, "InCsumErrors") for host in range(3))
    assert digests == [undisturbed] * 2
    # It did happen, and what was corrupted was seen to be.
    for share, kind in (
        (trouble.loss, "lost"),
        (trouble.reorder, "reordered"),
        (trouble.duplicate, "doubled"),
        (trouble.corrupt, "corrupted"),
    ):
        assert bool(counts[kind]) == bool(share), counts
    assert bool(refused) == bool(trouble.corrupt), f"{refused} wrong checksums; {counts}"
    kinds = sorted(set(counts) - {"packets"})
    happened = ", ".join(f"{counts[kind]} {kind}" for kind in kinds) or "all late"
    checked = f", {refused} refused for their checksum" if trouble.corrupt else ""
    what = f"{SAME_WEIGHTS}; of {counts['packets']} packets {happened}{checked}"
    note("all hosts", f"{name}, {protocol}", "all the time", what)
