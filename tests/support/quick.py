"""A test that has no marker is quick, and is stopped where it starts what takes time.

`make test-quick` runs what has no marker. A plugin of pytest.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from typing import Any

import grpc
import pytest

# By marker, what a test without any may not call. Those of `strategy` and of the Keras hooks have
# TensorFlow before their first test; others load it only where they say so.
MARKED: dict[str, list[tuple[Any, str]]] = {
    "processes": [(subprocess.Popen, "__init__"), (os, "fork")],
    "connections": [
        (socket.socket, "bind"),
        (socket.socket, "connect"),
        (grpc, "server"),
        (grpc, "insecure_channel"),
        (grpc, "secure_channel"),
    ],
    "tensorflow": [],
    "exhaustive": [],
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if any(item.get_closest_marker(marker) for marker in MARKED):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        for marker, calls in MARKED.items():
            for owner, name in calls:
                patch.setattr(owner, name, _refusal(marker, f"{owner.__name__}.{name}"))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    had_it = "tensorflow" in sys.modules
    result = yield
    if not had_it and "tensorflow" in sys.modules:
        marked = item.get_closest_marker("tensorflow")
        assert marked, "TensorFlow in a test that is not marked: @pytest.mark.tensorflow?"
    return result


def _refusal(marker: str, called: str) -> Callable[..., Any]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"{called} in a test that is not marked: @pytest.mark.{marker}?")

    return refuse
