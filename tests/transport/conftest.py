"""Peers of a test, closed after it."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.transport.grpc_peers import Peers


@pytest.fixture
def peers() -> Iterator[Peers]:
    with contextlib.ExitStack() as stack:
        yield Peers(stack)
