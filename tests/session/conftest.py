"""Sessions of a test, closed after it."""

import contextlib

import pytest

from tests.session.session_bench import Bench


@pytest.fixture
def bench():
    with contextlib.ExitStack() as stack:

        def build(**options):
            built = Bench(**options)
            stack.callback(built.session.close)
            return built

        yield build
