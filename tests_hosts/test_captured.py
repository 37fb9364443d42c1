"""What can be read on the network: everything without TLS, nothing with it.

Two hosts on a switch that keeps every packet. Needs root, iproute2 and /dev/net/tun.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.certificates import Authority
from tests.support.jobs import Job
from tests.support.network import Network

PIECE_BYTES = 64  # A packet holds hundreds; those at its edges are cut.
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """A gradient for the servers, and the two factors of another."""
    rng = np.random.default_rng(11)
    shapes = {"gradient": (40_000,), "x": (8, 1500), "delta": (8, 2000)}
    return {name: rng.normal(size=shape).astype("f") for name, shape in shapes.items()}


def captured(arrays: Arrays, folder: Path, *security: str) -> tuple[bytes, int]:
    """Every packet of a job of two workers that exchange `arrays`, and how many lanes it had."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    files = [str(folder / f"{name}.npy") for name in arrays]
    with Network(2) as network:
        network.captured = []
        with Job("captured.py", *files, *security, num_servers=0, network=network) as job:
            results = job.results(timeout_s=120)
        packets = b"".join(network.captured)
    assert all(each["shift"] for each in results)
    assert all(each["exchanges"] == [1, 1] for each in results)
    return packets, sum(each["lanes"] for each in results)


def share_seen(array: np.ndarray, packets: bytes) -> float:
    """Of the pieces of `array`, how many are somewhere in `packets`."""
    content = array.tobytes()
    pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
    return sum(piece in packets for piece in pieces) / len(pieces)


def test_without_tls_tensors_can_be_read_on_the_network(arrays: Arrays, tmp_path: Path) -> None:
    """The gradient on its way to the server, its sum on the way back, and both factors."""
    packets, num_lanes = captured(arrays, tmp_path)
    assert num_lanes > 0
    sums = {"sum": 2 * arrays["gradient"]}
    for name, array in (arrays | sums).items():
        assert share_seen(array, packets) > 0.8, name


def test_with_tls_no_tensor_can_be_read(arrays: Arrays, tmp_path: Path) -> None:
    """Not a piece of any; the job has no lane, whose bytes would be in the clear."""
    authority = Authority(tmp_path)
    files = authority.member("10.79.0.1", "10.79.0.2")
    packets, num_lanes = captured(
        arrays, tmp_path, authority.ca, files["certificate"], files["key"]
    )
    assert num_lanes == 0
    assert len(packets) > sum(array.nbytes for array in arrays.values())
    sums = {"sum": 2 * arrays["gradient"]}
    for name, array in (arrays | sums).items():
        assert share_seen(array, packets) == 0.0, name
