"""Text, and values that are more than a server takes as one sum, are reduced and gathered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

TEXT = {f"{way} along {axis}" for way in ("eager", "function") for axis in (0, 1)} | {"in replicas"}
LONG = {"sum, eager", "sum, function", "sum, any length", "sum, in replicas"}
LONG |= {"gather, eager", "gather, function"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, 1), id="2-workers"),
        pytest.param((2, 2), id="2-replicas", marks=pytest.mark.thorough),
        pytest.param((3, 1), id="3-workers", marks=pytest.mark.thorough),
    ],
)
def workers(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    num_workers, num_replicas = request.param
    with Job("long_values.py", str(num_replicas), num_workers=num_workers) as job:
        return job.results(timeout_s=300)


def test_text_is_gathered_as_it_is(workers: list[dict[str, Any]]) -> None:
    """Empty strings, zeros in them and after them, several axes, nothing on one replica."""
    for found in workers:
        assert found["text"].keys() == TEXT
        for way, (gathered, expected) in found["text"].items():
            assert gathered == expected, way


def test_values_may_be_longer_than_a_server_takes(workers: list[dict[str, Any]]) -> None:
    """80 MiB of each replica, to the last bit, also where the length is known late."""
    for found in workers:
        assert found["long"].keys() == LONG
        for way, (got, expected) in found["long"].items():
            assert got == expected, way
