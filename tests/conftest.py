"""Which versions a run has, and what every test leaves behind: nothing that runs."""

import gc
import importlib.metadata
import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support import warm
from tests.support.quick import pytest_runtest_call, pytest_runtest_protocol  # noqa: F401
from tests.support.working_folder import working_folder  # noqa: F401

# Ending takes a moment: a stream's thread hears of the end from gRPC's.
JOIN_S = 5.0
VERSIONED = ("tensorflow", "keras", "grpcio", "protobuf", "numpy")
NIGHTLIES = {"tensorflow": "tf-nightly", "keras": "keras-nightly"}  # Installed in their place.
_THIS = psutil.Process()


def pytest_report_header() -> str:
    """The versions that this run tests, in the first lines that pytest prints."""
    return ", ".join(f"{name} {_version(name)}" for name in VERSIONED)


def pytest_collection_finish() -> None:
    """What is collected stays; a garbage collection need not look at all of it each time."""
    gc.freeze()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(NIGHTLIES.get(name, name))


@pytest.fixture(autouse=True)
def no_thread_of_ours_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline_s = time.monotonic() + JOIN_S
    started = [t for t in threading.enumerate() if t not in before]
    ours = [thread for thread in started if thread.name.startswith("poseidon")]
    for thread in ours:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    left = [thread.name for thread in ours if thread.is_alive()]
    assert not left, f"threads still running: {left}"


def _children() -> set[psutil.Process]:
    """Those that nobody has waited for; the parents of warm processes stay for other tests."""
    try:  # Most tests have none, and to ask for their names takes a millisecond.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    return {child for child in _THIS.children() if child.pid not in warm.parents()}


def _ports() -> set[int]:
    """On which this process listens."""
    return {
        connection.laddr.port
        for connection in _THIS.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def _no_process_or_port_is_left() -> Iterator[None]:
    children, ports = _children(), _ports()
    yield
    left = _children() - children
    assert not left, f"processes that were not waited for: {left}"
    assert not (open_ports := _ports() - ports), f"ports that are still listened on: {open_ports}"


no_process_or_port_outlives_its_test = pytest.fixture(autouse=True)(_no_process_or_port_is_left)
# What several tests share is closed after the last of them.
no_process_or_port_outlives_its_file = pytest.fixture(autouse=True, scope="module")(
    _no_process_or_port_is_left
)
