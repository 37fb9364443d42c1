"""What the guardian does to the processes that it watches over when the launcher is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.test_local_ending import SLEEP, is_running, wait_until

pytestmark = pytest.mark.processes

# Starts one member, has it watched, and is killed as soon as the member is ready.
LAUNCHER = """
import os, pathlib, signal, subprocess, sys, time
from poseidon_tf.launcher.guardian import Guardian

folder, member, after_sigterm_s = sys.argv[1:]
ready = pathlib.Path(folder, "ready")
guardian = Guardian(after_sigterm_s=float(after_sigterm_s))
process = subprocess.Popen([sys.executable, "-c", member, folder], start_new_session=True)
guardian.watch(process.pid)
while not ready.exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""
# Says who it is, and who a child of it is in the same group, which SIGTERM would end.
MEMBER = f"""
import os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])

def clean(*_):
    time.sleep(0.3)
    (folder / "cleaned").write_text("with its child" if child.poll() is None else "alone")
    sys.exit()

signal.signal(signal.SIGTERM, {{on_sigterm}})
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
(folder / "new").write_text(f"{{{{os.getpid()}}}} {{{{child.pid}}}}")
(folder / "new").rename(folder / "ready")
time.sleep(60)
"""


@pytest.mark.parametrize(
    "on_sigterm, after_sigterm_s, cleaned",
    [("clean", 10.0, "with its child"), ("signal.SIG_IGN", 0.2, None)],
    ids=["who ends when asked", "who does not"],
)
def test_a_member_is_asked_to_end_and_then_its_whole_group_is_killed(
    tmp_path: Path, on_sigterm: str, after_sigterm_s: float, cleaned: str | None
) -> None:
    """It has time to clean up, with all that it needs for that; nobody stays in the end."""
    member = MEMBER.format(on_sigterm=on_sigterm)
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), member, str(after_sigterm_s)]
    assert subprocess.run(command, timeout=30).returncode == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "ready").read_text().split()]
    wait_until(lambda: not any(map(is_running, pids)))
    found = tmp_path / "cleaned"
    assert (found.read_text() if found.exists() else None) == cleaned
