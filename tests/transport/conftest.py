"""Peers of a test, closed after it."""

import contextlib

import pytest

from tests.transport.grpc_peers import Peers


@pytest.fixture
def peers():
    with contextlib.ExitStack() as stack:
        yield Peers(stack)
