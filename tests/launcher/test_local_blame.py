"""Which member of a local job is named, whose code the job has, and what is said at the end."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from poseidon_tf.launch.reports import VARIABLE, ReportFile, tell_launcher
from tests.launcher.local_jobs import Run
from tests.launcher.test_local_ending import RANK, SHORT

pytestmark = pytest.mark.processes

REPORT = RANK + (
    "import sys, time, pathlib\n"
    "from poseidon_tf.launch.reports import tell_launcher\n"
    "def tell(*lines, is_own): assert tell_launcher(os.environ, lines, is_own=is_own)\n"
    "def wait_for(name):\n"
    "    while not pathlib.Path(sys.argv[1], name).exists(): time.sleep(0.01)\n"
    "def done(name): pathlib.Path(sys.argv[1], name).touch()\n"
)


def test_whoever_failed_first_is_named_and_not_who_ended_first(run: Run, tmp_path: Path) -> None:
    """Rank 0's script fails; rank 1 hears of it and has ended before rank 0 has."""
    ended = run(
        REPORT + "if rank == 0:\n"
        "    tell('worker rank 0, after step 3', 'ValueError: why', is_own=True)\n"
        "    done('failed')\n"
        "    wait_for('heard')\n"
        "    time.sleep(0.3)\n"
        "    sys.exit(5)\n"
        "wait_for('failed')\n"
        "tell('worker rank 0 failed', is_own=False)\n"
        "print('rank 1 ends', file=sys.stderr)\n"
        "done('heard')\n"
        "sys.exit(6)",
        str(tmp_path),
        workers=2,
    )
    assert ended.code == 5
    assert ended.err == [
        "[worker 1] rank 1 ends",
        "[poseidon-tf] worker 0 ended with code 5",
        "[poseidon-tf] the job failed: worker rank 0, after step 3",
        "[poseidon-tf]   ValueError: why",
    ]


def test_whoever_failed_first_may_have_to_be_ended(run: Run, tmp_path: Path) -> None:
    """Then the job's code is that of the first that ended by itself, and not of our SIGTERM."""
    ended = run(
        REPORT + "if rank == 0:\n"
        "    tell('worker rank 0, after step 3', is_own=True)\n"
        "    done('failed')\n"
        "    time.sleep(60)\n"
        "wait_for('failed')\n"
        "tell('worker rank 0 failed', is_own=False)\n"
        "sys.exit(6)",
        str(tmp_path),
        workers=2,
        patience=SHORT,
    )
    assert ended.code == 6
    assert ended.err == [
        "[poseidon-tf] warning: still running after 0.3 s: sending SIGTERM to worker 0",
        "[poseidon-tf] the job failed: worker rank 0, after step 3",
    ]


def test_who_was_killed_is_named_with_what_the_others_saw(run: Run, tmp_path: Path) -> None:
    """It could say nothing itself. Of the others a worker is quoted, which knows its step."""
    ended = run(
        REPORT + "done(f'started{rank}')\n"
        "if rank == 1:\n"
        "    os.kill(os.getpid(), 9)\n"
        "tell('PeerLost: worker rank 1 is gone', 'rank 0 was in step 4', is_own=False)\n"
        "sys.exit(1)",
        str(tmp_path),
        workers=2,
    )
    assert ended.code == 128 + signal.SIGKILL
    assert ended.err == [
        "[poseidon-tf] worker 1 ended with code 137",
        "[poseidon-tf] the job failed: worker 1 was killed by SIGKILL",
        "[poseidon-tf]   the others say: PeerLost: worker rank 1 is gone",
        "[poseidon-tf]   rank 0 was in step 4",
    ]


def test_where_nobody_is_at_fault_the_reason_is_said(run: Run, tmp_path: Path) -> None:
    """All have heard that somebody was waited for in vain; a restart is announced all the same."""
    ended = run(
        REPORT + "tell('StepTimeout: worker rank 0 waited', is_own=False); sys.exit(1)",
        str(tmp_path),
        max_restarts=1,
    )
    reason = "[poseidon-tf] the job failed: StepTimeout: worker rank 0 waited"
    assert ended.code == 1
    assert ended.err == ["[poseidon-tf] restart 1 of 1", reason, reason]


def test_an_exception_before_the_strategy_is_quoted(run: Run) -> None:
    """Nobody told the launcher; the last line is Python's, after what others print meanwhile."""
    ended = run(
        RANK + "import sys, time\n"
        "if rank == 1: raise ValueError('no data directory')\n"
        "time.sleep(60)",
        workers=2,
        patience=SHORT,
    )
    assert ended.code == 1
    assert ended.err[-2:] == [
        "[poseidon-tf] the job failed: worker 1 ended with code 1",
        "[poseidon-tf]   its last line on stderr: ValueError: no data directory",
    ]


def test_a_file_that_is_not_the_launcher_s_stays_as_it_is() -> None:
    """A process that a member has started inherits the variable and not the descriptor."""
    report = ReportFile()
    assert tell_launcher(report.environ, ["first"], is_own=True)
    assert tell_launcher(report.environ, ["second"], is_own=False)
    found = report.read()
    assert found is not None and (found.is_own, found.lines) == (True, ("first",))
    report.close()
    assert not tell_launcher(report.environ, ["late"], is_own=True)
    with tempfile.TemporaryFile() as stranger:
        _, device, inode = report.environ[VARIABLE].split(":")
        environ = {VARIABLE: f"{stranger.fileno()}:{device}:{int(inode) + 1}"}
        assert not tell_launcher(environ, ["late"], is_own=True)
        assert os.fstat(stranger.fileno()).st_size == 0
    assert not tell_launcher({}, ["nobody listens"], is_own=True)


def test_half_a_report_is_none() -> None:
    """The launcher looks when it likes; what is half written is not there yet."""
    report = ReportFile()
    assert report.read() is None
    whole = json.dumps({"is_own": False, "at_s": time.monotonic(), "lines": ["why"]}).encode()
    os.pwrite(report.descriptor, whole[: len(whole) // 2], 0)
    assert report.read() is None
    os.pwrite(report.descriptor, whole, 0)
    assert report.read() is not None
    report.close()
