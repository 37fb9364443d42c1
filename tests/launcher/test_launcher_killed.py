"""However a local job ends, its launcher killed included: no process, port or file of it stays."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launcher.test_local_ending import RANK, SLEEP, wait_until
from tests.support.traces import MARK, files, marked

pytestmark = pytest.mark.processes

# Every member opens its port, starts a child in its group, and says that it is ready.
MEMBER = (
    "import os, json, pathlib, socket, subprocess, sys, time\n"
    "config = json.loads(os.environ['TF_CONFIG']); task = config['task']\n"
    "host, port = config['cluster'][task['type']][task['index']].split(':')\n"
    "listening = socket.create_server((host, int(port)))\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
    "ready = pathlib.Path(os.environ['FOLDER'], f\"{task['type']}{task['index']}\")\n"
    "new = ready.with_suffix('.new'); new.write_text(port); new.rename(ready)\n"
)
MEMBERS = ("worker0", "worker1", "ps0")


@pytest.mark.parametrize("how", ["success", "failure", "Ctrl-C", "kill -9"])
def test_nothing_of_a_job_stays(tmp_path: Path, how: str) -> None:
    """Workers, a server, what they have started, and the guardian end within seconds."""
    temporary = tmp_path / "temporary"  # Others may use the system's own meanwhile.
    temporary.mkdir()
    mark, before = str(tmp_path), files(temporary)
    ends = {"success": "", "failure": "sys.exit(3 if task['index'] else 0)"}
    wait_all = (
        f"while not all(ready.with_name(name).exists() for name in {MEMBERS}): time.sleep(0.01)\n"
    )
    script = tmp_path / "train.py"
    script.write_text(MEMBER + wait_all + ends.get(how, "time.sleep(60)"))
    server = MEMBER + wait_all + ("" if how == "success" else "time.sleep(60)")
    program = (
        "import os, sys\n"
        "from poseidon_tf.launcher.local import run_local\n"
        "from poseidon_tf.launcher.supervisor import Patience\n"
        f"sys.exit(run_local([{str(script)!r}], num_workers=2, num_servers=1,\n"
        "    patience=Patience(after_failure_s=0.2), environ=dict(os.environ),\n"
        f"    server_command=[sys.executable, '-c', {server!r}]))\n"
    )
    environ = {**os.environ, MARK: mark, "FOLDER": str(tmp_path), "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", program], env=environ) as launcher:
        ready = [tmp_path / name for name in MEMBERS]
        wait_until(lambda: all(file.exists() for file in ready))
        if how == "kill -9":
            # The launcher, its guardian, and three members with a child each. A process shows its
            # environment only once the kernel has finished its exec.
            wait_until(lambda: len(marked(mark)) == 8)
            launcher.kill()
        elif how == "Ctrl-C":
            launcher.send_signal(signal.SIGINT)
        code = launcher.wait(timeout=10)
    assert code == {"success": 0, "failure": 3, "Ctrl-C": 130, "kill -9": -9}[how]
    wait_until(lambda: not marked(mark), timeout_s=5.0)
    for file in ready:
        with socket.create_server(("127.0.0.1", int(file.read_text()))):
            pass  # Nobody else has the port.
    assert files(temporary) - before == set()


def test_a_job_that_runs_on_without_its_guardian_ends_as_ever(tmp_path: Path) -> None:
    """Somebody kills the guardian: the job ends with its own code, and says nothing of it."""
    mark = str(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(
        RANK + "import pathlib, sys, time\n"
        "go = pathlib.Path(sys.argv[1], 'go')\n"
        "pathlib.Path(sys.argv[1], f'ready{rank}').touch()\n"
        "while not go.exists(): time.sleep(0.01)\n"
    )
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "2", str(script), mark]
    with subprocess.Popen(
        command, env={**os.environ, MARK: mark}, stderr=subprocess.PIPE
    ) as launcher:
        wait_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)))
        (guardian,) = [each for each in marked(mark) if "-I" in each.cmdline()]
        guardian.kill()
        wait_until(lambda: guardian.status() == psutil.STATUS_ZOMBIE)
        Path(tmp_path, "go").touch()
        _, err = launcher.communicate(timeout=10)
    assert (launcher.returncode, err) == (0, b"")
