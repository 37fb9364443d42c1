"""Which versions a run has, and what every test leaves behind: nothing that runs."""

import importlib.metadata
import threading
import time

import pytest

from tests.support.quick import pytest_runtest_call, pytest_runtest_protocol  # noqa: F401

# Ending takes a moment: a stream's thread hears of the end from gRPC's.
JOIN_S = 5.0
VERSIONED = ("tensorflow", "keras", "grpcio", "protobuf", "numpy")


def pytest_report_header() -> str:
    """The versions that this run tests, in the first lines that pytest prints."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONED)


@pytest.fixture(autouse=True)
def no_thread_of_ours_outlives_its_test():
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + JOIN_S
    started = [t for t in threading.enumerate() if t not in before]
    ours = [thread for thread in started if thread.name.startswith("poseidon")]
    for thread in ours:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    left = [thread.name for thread in ours if thread.is_alive()]
    assert not left, f"threads still running: {left}"
