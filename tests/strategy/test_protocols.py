"""What tensors travel by changes no bit of a result, and no tensor byte."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found() -> dict[str, list[Found]]:
    """By protocol: what each worker found; servers of their own in the one, co-located in both."""
    found = {}
    for protocol in ("grpc", "grpc+tcp"):
        environ = {"POSEIDON_PROTOCOL": protocol}
        with Job("protocols.py", num_workers=2, num_servers=0, environ=environ) as job:
            found[protocol] = job.results()
    return found


def test_weights_have_the_same_bits(found: dict[str, list[Found]]) -> None:
    """On all workers, by either protocol."""
    everyone = [each for by_protocol in found.values() for each in by_protocol]
    assert all(each["schemes"] == ["ps", "rows", "sfb"] for each in everyone)
    assert len({each["weights"] for each in everyone}) == 1


def test_the_same_tensor_bytes_travel(found: dict[str, list[Found]]) -> None:
    """Those of the plan, to the byte; what frames them is not more."""
    for through_grpc, over_lanes in zip(found["grpc"], found["grpc+tcp"], strict=True):
        for scheme in ("ps", "sfb", "rows", "all_reduce"):
            assert through_grpc["statistics"][scheme] == over_lanes["statistics"][scheme]
        for peers in ("servers", "workers"):
            sent = [each["statistics"][peers]["sent_bytes"] for each in (through_grpc, over_lanes)]
            assert 0.99 < sent[0] / sent[1] < 1.01


@pytest.mark.parametrize("peers", ["servers", "own_server", "workers"])
def test_every_stream_has_a_lane_or_none_has(found: dict[str, list[Found]], peers: str) -> None:
    """As the protocol says."""
    for protocol, everyone in found.items():
        for each in everyone:
            counts = each["statistics"][peers]
            assert counts["num_streams"] > 0
            assert counts["num_lanes"] == (counts["num_streams"] if protocol != "grpc" else 0)


def test_one_dedicated_server_without_lanes_is_enough_to_have_none_there() -> None:
    """By default the workers' streams to it go through gRPC, those to each other over lanes."""
    without, with_lanes = {"POSEIDON_PROTOCOL": "grpc"}, {"POSEIDON_PROTOCOL": "auto"}
    with Job(
        "protocols.py",
        num_workers=2,
        num_servers=1,
        environ=without,
        rank_environ={0: with_lanes, 1: with_lanes},
    ) as job:
        for each in job.results():
            assert each["statistics"]["servers"]["num_lanes"] == 0
            assert each["statistics"]["workers"]["num_lanes"] > 0
