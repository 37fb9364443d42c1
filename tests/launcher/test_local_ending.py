"""A local job: how it ends, with which code, and that nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launcher.local import run_local
from poseidon_tf.launcher.supervisor import Patience
from tests.launcher.local_jobs import Run

pytestmark = pytest.mark.processes

SHORT = Patience(after_failure_s=0.3, after_workers_s=0.3, after_sigterm_s=0.3, grace_s=0.3)
SLEEP = "import time; time.sleep(60)"
RANK = "import os, json; rank = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # Init may take its time to reap.


def wait_until(is_true: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline_s, "never became true"
        time.sleep(0.01)


def test_the_first_failing_code_wins_and_the_others_are_ended(run: Run) -> None:
    ended = run(
        RANK + "import sys, time; sys.exit(3) if rank == 1 else time.sleep(60)",
        workers=3,
        servers=1,
        server=SLEEP,
        patience=SHORT,
    )
    assert ended.code == 3
    assert ended.err == [
        "[poseidon-tf] worker 1 ended with code 3",
        "[poseidon-tf] warning: still running after 0.3 s: "
        "sending SIGTERM to server 0, worker 0, worker 2",
    ]


def test_the_others_have_time_to_say_who_died(run: Run, tmp_path: Path) -> None:
    died = str(tmp_path / "died")
    script = RANK + (
        "import sys, time, pathlib\n"
        f"died = pathlib.Path({died!r})\n"
        "if rank == 1: died.touch(); sys.exit(3)\n"
        "while not died.exists(): time.sleep(0.01)\n"
        "time.sleep(0.2); sys.exit('worker 1 died')"
    )
    ended = run(script, workers=2)
    assert ended.code == 3  # Not worker 0's 1, which came after it.
    assert "[worker 0] worker 1 died" in ended.err
    assert not any("SIGTERM" in line for line in ended.err)


def test_death_by_a_signal_is_128_and_its_number(run: Run) -> None:
    ended = run(RANK + "import time; os.kill(os.getpid(), 9) if rank else time.sleep(60)",
                workers=2, patience=SHORT)  # fmt: skip
    assert ended.code == 128 + signal.SIGKILL


def test_a_server_that_fails_ends_the_job(run: Run) -> None:
    ended = run(SLEEP, workers=2, servers=1, server="raise SystemExit(5)", patience=SHORT)
    assert ended.code == 5


def test_a_server_may_end_after_the_workers(run: Run) -> None:
    late = "import time; time.sleep(0.5); print('bye')"
    ended = run("", servers=1, server=late)
    assert (ended.code, ended.out, ended.err) == (0, ["[server 0] bye"], [])


def test_a_server_that_stays_is_ended_with_a_warning(run: Run) -> None:
    ended = run("", servers=1, server=SLEEP, patience=SHORT)
    assert ended.code == 0
    assert ended.err == [
        "[poseidon-tf] warning: still running after 0.3 s: sending SIGTERM to server 0"
    ]


def test_a_server_that_fails_after_the_workers_fails_the_job(run: Run) -> None:
    ended = run("", servers=1, server="import time; time.sleep(0.5); raise SystemExit(6)")
    assert ended.code == 6


def test_who_ignores_sigterm_is_killed(run: Run) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    began_s = time.monotonic()
    assert run("raise SystemExit(4)", servers=1, server=deaf, patience=SHORT).code == 4
    assert time.monotonic() - began_s < 5


def test_what_a_worker_started_ends_with_the_job(run: Run) -> None:
    ended = run(
        "import subprocess, sys\n"
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
    )
    pid = int(ended.out[0].split()[-1])
    wait_until(lambda: not is_running(pid))


def test_a_descendant_in_another_session_cannot_hold_the_job_up(run: Run) -> None:
    began_s = time.monotonic()
    ended = run(
        "import subprocess, sys\n"
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True).pid)"
    )
    os.kill(int(ended.out[0].split()[-1]), signal.SIGKILL)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize(
    "command, counts, says",
    [
        ([], (1, None), "needs a command"),
        (["x.py"], (0, None), "num_workers=0"),
        (["x.py"], (1, -1), "num_servers=-1"),
        (["no/such/train.py"], (1, None), "no script 'no/such/train.py'"),
    ],
)
def test_a_job_that_cannot_be_is_refused(
    command: Sequence[str], counts: tuple[int, int | None], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        run_local(command, num_workers=counts[0], num_servers=counts[1], environ={})


def test_a_member_that_cannot_start_ends_those_that_did(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="cannot start worker 0"):
        run_local(
            [str(broken)],
            num_workers=1,
            num_servers=1,
            environ=os.environ,
            server_command=[sys.executable, "-c", SLEEP],
        )  # The fixture sees that no thread still waits for the server.


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_launcher_leaves_no_process(tmp_path: Path, signum: signal.Signals) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        RANK + "import sys, subprocess, pathlib, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "new = pathlib.Path(sys.argv[1], f'new{rank}')\n"
        "new.write_text(f'{os.getpid()} {child.pid}')\n"
        "new.rename(new.with_name(f'pids{rank}'))\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "2"]
    with subprocess.Popen(
        [*command, str(script), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as launcher:
        files = [tmp_path / "pids0", tmp_path / "pids1"]
        wait_until(lambda: all(file.exists() for file in files))
        pids = [int(pid) for file in files for pid in file.read_text().split()]
        assert len(pids) == 4 and all(map(is_running, pids))
        launcher.send_signal(signum)
        _, err = launcher.communicate(timeout=10)
    assert launcher.returncode == 128 + signum
    assert err.decode() == f"[poseidon-tf] {signum.name}: sending SIGTERM to worker 0, worker 1\n"
    wait_until(lambda: not any(map(is_running, pids)))
