"""Sessions of a test, closed after it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.session.session_bench import Bench, MakeBench


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    with contextlib.ExitStack() as stack:

        def build(**options: Any) -> Bench:
            built = Bench(**options)
            stack.callback(built.session.close)
            return built

        yield build
