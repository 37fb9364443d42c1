"""A local job that fails is started anew: how often, after what, and with which code it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launcher.local import run_local
from tests.launcher.local_jobs import Run
from tests.launcher.test_local_ending import RANK, SHORT, SLEEP, wait_until

pytestmark = pytest.mark.processes

# Appends this process's TF_CONFIG to a file of its own, and knows how often it has done so.
TRY = RANK + (
    "import sys, time, pathlib\n"
    "log = pathlib.Path(sys.argv[1], f'tries{rank}')\n"
    "with log.open('a') as file: file.write(os.environ['TF_CONFIG'] + '\\n')\n"
    "number = len(log.read_text().splitlines())\n"
    "assert int(os.environ['POSEIDON_RESTARTS']) == number - 1\n"
)


def configs(folder: Path, rank: int) -> list[Any]:
    return [json.loads(line) for line in (folder / f"tries{rank}").read_text().splitlines()]


def test_a_job_that_fails_is_started_anew_until_it_succeeds(run: Run, tmp_path: Path) -> None:
    """All members start again, on other ports; the code is that of the last try."""
    ended = run(
        TRY + "if number < 3: sys.exit(9) if rank == 1 else time.sleep(60)",
        str(tmp_path),
        workers=2,
        servers=1,
        server="",
        patience=SHORT,
        max_restarts=3,
    )
    assert ended.code == 0
    assert [line for line in ended.err if "restart" in line] == [
        "[poseidon-tf] worker 1 ended with code 9; restart 1 of 3",
        "[poseidon-tf] worker 1 ended with code 9; restart 2 of 3",
    ]
    for rank in (0, 1):
        tries = configs(tmp_path, rank)
        assert len(tries) == 3
        ports = [address for config in tries for address in config["cluster"]["worker"]]
        assert len(set(ports)) == len(ports)


def test_a_job_that_always_fails_ends_with_the_code_of_its_last_try(
    run: Run, tmp_path: Path
) -> None:
    """R restarts are R + 1 tries, and the last one says nothing of a restart."""
    ended = run(TRY + "sys.exit(10 + number)", str(tmp_path), max_restarts=2)
    assert ended.code == 13
    assert ended.err == [
        "[poseidon-tf] worker 0 ended with code 11; restart 1 of 2",
        "[poseidon-tf] worker 0 ended with code 12; restart 2 of 2",
        "[poseidon-tf] worker 0 ended with code 13",
    ]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_member_that_a_signal_ended_is_a_failure(
    run: Run, tmp_path: Path, signum: signal.Signals
) -> None:
    """Killed, or pre-empted by somebody who did not ask the launcher."""
    ended = run(
        TRY + f"if number == 1: os.kill(os.getpid(), {int(signum)})",
        str(tmp_path),
        max_restarts=1,
    )
    assert ended.code == 0
    assert ended.err == [f"[poseidon-tf] worker 0 ended with code {128 + signum}; restart 1 of 1"]


def test_what_the_failed_try_printed_last_is_shown_before_the_next_one(
    run: Run, tmp_path: Path
) -> None:
    """No line is lost, and none is mixed up with another try's."""
    ended = run(
        TRY + "print('try', number, flush=True); sys.exit(number < 3)",
        str(tmp_path),
        max_restarts=5,
    )
    assert ended.code == 0
    assert ended.out == ["[worker 0] try 1", "[worker 0] try 2", "[worker 0] try 3"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_was_asked_to_stop_is_not_started_anew(
    tmp_path: Path, signum: signal.Signals
) -> None:
    """Neither because of the code with which its members then end."""
    script = tmp_path / "train.py"
    script.write_text(TRY + SLEEP)
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "2", "--max-restarts", "5"]
    with subprocess.Popen([*command, str(script), str(tmp_path)]) as launcher:
        tries = [tmp_path / f"tries{rank}" for rank in (0, 1)]
        wait_until(lambda: all(each.exists() and each.read_text() for each in tries))
        launcher.send_signal(signum)
        assert launcher.wait(timeout=10) == 128 + signum
    assert [len(configs(tmp_path, rank)) for rank in (0, 1)] == [1, 1]


def test_workers_may_save_before_servers_are_told_to_end(tmp_path: Path) -> None:
    """On SIGTERM a worker takes its time, a server that would end at once is not asked before."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal, sys, pathlib, time\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"
        "    pathlib.Path(sys.argv[1], 'saved').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(sys.argv[1], 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    server = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        f"    assert pathlib.Path({str(tmp_path)!r}, 'saved').exists()\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'served').touch()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'serving').touch()\n"
        "time.sleep(60)\n"
    )
    program = (
        "import os, sys\n"
        "from poseidon_tf.launcher.local import run_local\n"
        f"sys.exit(run_local([{str(script)!r}, {str(tmp_path)!r}], num_workers=1, num_servers=1,\n"
        f"    environ=dict(os.environ), server_command=[sys.executable, '-c', {server!r}]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as launcher:
        wait_until(lambda: (tmp_path / "ready").exists() and (tmp_path / "serving").exists())
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=10) == 143
    assert (tmp_path / "saved").exists() and (tmp_path / "served").exists()


def test_a_worker_that_takes_longer_than_the_grace_is_killed(tmp_path: Path) -> None:
    """`--grace` is how long it may take."""
    script = tmp_path / "train.py"
    script.write_text(
        "import signal, sys, pathlib, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1], 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "1", "--grace", "0.2"]
    with subprocess.Popen([*command, str(script), str(tmp_path)]) as launcher:
        wait_until(lambda: (tmp_path / "ready").exists())
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=5) == 143


def test_a_negative_number_of_restarts_is_refused() -> None:
    """Before anything is started."""
    with pytest.raises(ConfigError, match="max_restarts=-1"):
        run_local(["x.py"], num_workers=1, environ=os.environ, max_restarts=-1)
