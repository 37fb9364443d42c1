"""What a test may not leave behind."""

import os
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    """No thread, whoever's it is, and no file; for folders whose tests use no gRPC."""
    threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    yield
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= len(files)
