"""SIGUSR2 has a process write its last events, and leaves alone what is the script's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import asyncio, hashlib, signal, sys, threading
from poseidon_tf.launch.flight_signal import FlightSignal
from poseidon_tf.trace import Recorder

{before}
recorder = Recorder("worker 2", directory=None)
recorder.event("sent", "fc/kernel", 7)
flight = FlightSignal(recorder, "worker rank 2")
{after}
print("ready", flush=True)
{wait}
"""
# Python's instructions end after minutes; the signal comes in the middle of one.
IN_A_STEP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)"
USERS_OWN = "signal.signal(signal.SIGUSR2, lambda *_: (print('their own', flush=True), sys.exit()))"


def started(folder: Path, **parts: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(**{"before": "", "after": "", "wait": IN_A_STEP, **parts})
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(IN_A_STEP, id="in a step"),
        pytest.param("threading.Event().wait(60)", id="in Python"),
        pytest.param("asyncio.run(asyncio.sleep(60))", id="in asyncio, which takes the descriptor"),
    ],
)
def test_the_last_events_are_written_at_once(tmp_path: Path, wait: str) -> None:
    """And the process goes on."""
    with started(tmp_path, wait=wait) as process:
        process.send_signal(signal.SIGUSR2)
        assert process.stderr is not None
        path = tmp_path / f"worker-2.{process.pid}.flight.trace.json"
        assert process.stderr.readline() == (
            f"worker rank 2: the last events are in {path} (SIGUSR2)\n"
        )
        assert process.poll() is None
        process.kill()
    assert json.loads(path.read_text())["otherData"]["written because"] == "SIGUSR2"


def test_a_handler_of_the_script_is_left_alone(tmp_path: Path) -> None:
    with started(tmp_path, before=USERS_OWN, wait="threading.Event().wait(60)") as process:
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("their own\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_the_script_sets_later_has_the_signal_to_itself(tmp_path: Path) -> None:
    """Nothing is written, and nothing is said; `close` ends after all that has come before it."""
    after = "theirs = threading.Event()\nsignal.signal(signal.SIGUSR2, lambda *_: theirs.set())"
    wait = "theirs.wait(60)\nflight.close()\nprint('their own', flush=True)"
    with started(tmp_path, after=after, wait=wait) as process:
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("their own\n", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_what_the_script_sets_later_stays_when_the_worker_leaves(tmp_path: Path) -> None:
    """What was there before stays as it is when the worker leaves."""
    wait = "flight.close()\nthreading.Event().wait(60)"
    with started(tmp_path, after=USERS_OWN, wait=wait) as process:
        process.send_signal(signal.SIGUSR2)
        out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("their own\n", 0)


def test_once_the_worker_has_left_the_signal_does_what_it_did_before(tmp_path: Path) -> None:
    with started(tmp_path, after="flight.close()") as process:
        process.send_signal(signal.SIGUSR2)
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("", "", -signal.SIGUSR2)
