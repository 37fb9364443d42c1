"""Clusters of a test, closed after it."""

import contextlib

import pytest
from kv_links import Cluster


@pytest.fixture
def cluster():
    with contextlib.ExitStack() as stack:
        yield lambda num_workers, **options: Cluster(stack, num_workers, **options)
