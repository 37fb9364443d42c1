"""Clusters of a test, closed after it."""

import contextlib
from collections.abc import Iterator

import pytest

from poseidon_tf.kv import service
from tests.kv.kv_links import Cluster, MakeCluster


@pytest.fixture
def small_keys_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of a few bytes use every stream, as large ones do."""
    monkeypatch.setattr(service, "FIRST_STREAM_BYTES", 0)


@pytest.fixture
def cluster(small_keys_take_turns: None) -> Iterator[MakeCluster]:
    with contextlib.ExitStack() as stack:
        yield lambda num_workers, **options: Cluster(stack, num_workers, **options)
