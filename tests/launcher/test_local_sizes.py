"""A local job goes on with the workers that are left, and with all when it is told to."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from poseidon_tf.errors import ConfigError
from poseidon_tf.launcher.cli import main
from poseidon_tf.launcher.local import run_local
from tests.launcher.local_jobs import Run
from tests.launcher.test_local_ending import RANK, SHORT, is_running, wait_until
from tests.launcher.test_local_restarts import TRY, configs

pytestmark = pytest.mark.processes

# In its first two tries it waits until it is asked to end, and ends with the code it was given.
WORKER = RANK + (
    "import pathlib, signal, sys, threading, time\n"
    "folder, code, asked = sys.argv[1], int(sys.argv[2]), threading.Event()\n"
    "signal.signal(signal.SIGTERM, lambda *_: asked.set())\n"
    "number = int(os.environ['POSEIDON_RESTARTS']) + 1\n"
    "log = pathlib.Path(folder, f'tries{rank}')\n"
    "with log.open('a') as file: file.write(os.environ['TF_CONFIG'] + '\\n')\n"
    "pathlib.Path(folder, f'ready-{number}-{rank}').write_text(str(os.getpid()))\n"
    "if number < 3: asked.wait(60)\n"
    "while number == 2 and pathlib.Path(folder, 'saving').exists(): time.sleep(0.01)\n"
    "if number < 3: sys.exit(code)\n"
)


def sizes(folder: Path) -> list[tuple[int, int]]:
    """Of each try, how many workers and servers there were."""
    clusters = [config["cluster"] for config in configs(folder, 0)]
    return [(len(each["worker"]), len(each.get("ps", []))) for each in clusters]


def test_a_worker_that_is_killed_is_missing_in_the_next_try(run: Run, tmp_path: Path) -> None:
    """Servers are as many as before. A script that fails, or ends with the code that a shell gives
    for SIGKILL, costs no worker."""
    ended = run(
        TRY
        + "if number == 1: os.kill(os.getpid(), 9) if rank == 2 else time.sleep(60)\n"
        + "if number == 2: sys.exit(137) if rank == 1 else time.sleep(60)\n",
        str(tmp_path),
        workers=3,
        min_workers=2,
        servers=1,
        patience=SHORT,
        max_restarts=2,
    )
    assert ended.code == 0
    assert sizes(tmp_path) == [(3, 1), (2, 1), (2, 1)]
    assert [line for line in ended.err if "again" in line] == [
        "[poseidon-tf] worker 2 was killed by signal 9; "
        "starting again with 2 of 3 workers (try 2 of 3)",
        "[poseidon-tf] no worker was lost; starting again with 2 of 3 workers (try 3 of 3)",
    ]


def test_a_server_that_is_killed_costs_no_worker(run: Run, tmp_path: Path) -> None:
    """It is started again as it was."""
    died = tmp_path / "died"
    ended = run(
        TRY + "if number == 1: time.sleep(60)",
        str(tmp_path),
        workers=2,
        min_workers=1,
        servers=1,
        server=(
            "import os, pathlib\n"
            f"died = pathlib.Path({str(died)!r})\n"
            f"others = [pathlib.Path({str(tmp_path)!r}, f'tries{{rank}}') for rank in (0, 1)]\n"
            "while not all(each.exists() for each in others): pass\n"
            "if not died.exists(): died.touch(); os.kill(os.getpid(), 9)\n"
        ),
        patience=SHORT,
        max_restarts=1,
    )
    assert ended.code == 0
    assert sizes(tmp_path) == [(2, 1), (2, 1)]


def test_whom_the_launcher_itself_has_killed_is_not_lost(run: Run, tmp_path: Path) -> None:
    """Those that do not end by themselves after another one has failed."""
    ended = run(
        TRY
        + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + "if number == 1: sys.exit(3) if rank == 1 else time.sleep(60)\n",
        str(tmp_path),
        workers=3,
        min_workers=1,
        patience=SHORT,
        max_restarts=1,
    )
    assert ended.code == 0
    assert sizes(tmp_path) == [(3, 0), (3, 0)]


def begun(folder: Path, *, workers: str, code: int) -> subprocess.Popen[str]:
    """A job that may be restarted once; its workers end with `code` when they are asked to."""
    script = folder / "train.py"
    script.write_text(WORKER)
    options = ["--workers", workers, "--max-restarts", "1"]
    command = [sys.executable, "-m", "poseidon_tf", "run", *options]
    return subprocess.Popen(
        [*command, str(script), str(folder), str(code)], stderr=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def launched(folder: Path, code: int) -> Iterator[subprocess.Popen[str]]:
    """Two or three workers, of which one is killed, so that two are left, who are ready.

    Args:
      code: with which they end when they are asked to.
    """
    with begun(folder, workers="2:3", code=code) as launcher:
        ready(folder, number=1, workers=3)
        assert sizes(folder) == [(3, 0)]
        os.kill(pid(folder, 1, 1), signal.SIGKILL)
        wait_until(lambda: not is_running(pid(folder, 1, 1)))
        for rank in (0, 2):  # As if they had heard of it.
            os.kill(pid(folder, 1, rank), signal.SIGTERM)
        ready(folder, number=2, workers=2)
        yield launcher


def pid(folder: Path, number: int, rank: int) -> int:
    return int((folder / f"ready-{number}-{rank}").read_text())


def ready(folder: Path, *, number: int, workers: int) -> None:
    files = [folder / f"ready-{number}-{rank}" for rank in range(workers)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), timeout_s=20)


def said(lines: str) -> list[str]:
    lead = "[poseidon-tf] "
    return [line.removeprefix(lead) for line in lines.splitlines() if line.startswith(lead)]


def test_on_sigusr1_the_workers_save_and_all_are_started(tmp_path: Path) -> None:
    """Which needs no restart to be left, and is asked once."""
    with launched(tmp_path, code=143) as launcher:
        launcher.send_signal(signal.SIGUSR1)
        _, lines = launcher.communicate(timeout=20)
    assert launcher.returncode == 0
    assert sizes(tmp_path) == [(3, 0), (2, 0), (3, 0)]
    assert [line for line in said(lines) if "ended with code" not in line] == [
        "worker 1 was killed by signal 9; starting again with 2 of 3 workers (try 2 of 2)",
        "SIGUSR1: sending SIGTERM to worker 0, worker 1",
        "SIGUSR1 came; starting again with 3 of 3 workers (try 2 of 2)",
    ]


def test_a_job_that_comes_to_its_end_when_asked_for_more_workers_is_done(tmp_path: Path) -> None:
    """All its workers have ended with code 0."""
    with launched(tmp_path, code=0) as launcher:
        launcher.send_signal(signal.SIGUSR1)
        assert launcher.wait(timeout=20) == 0
    assert sizes(tmp_path) == [(3, 0), (2, 0)]


def test_a_job_that_is_stopped_after_it_was_asked_for_more_is_not_started(tmp_path: Path) -> None:
    """Its workers may still save; they are not asked twice, nor killed."""
    (tmp_path / "saving").touch()
    with launched(tmp_path, code=143) as launcher:
        assert launcher.stderr is not None
        launcher.send_signal(signal.SIGUSR1)
        lines = iter(launcher.stderr.readline, "")
        assert any("SIGUSR1: sending SIGTERM" in line for line in lines)
        launcher.send_signal(signal.SIGTERM)
        assert next(lines) == "[poseidon-tf] SIGTERM: not starting again\n"
        (tmp_path / "saving").unlink()
        assert launcher.wait(timeout=20) == 143
    assert sizes(tmp_path) == [(3, 0), (2, 0)]


def test_sigusr1_counts_while_a_try_with_all_workers_is_failing(tmp_path: Path) -> None:
    """Who was lost is there again before the others have ended: nobody is missing."""
    with begun(tmp_path, workers="1:2", code=0) as launcher:
        assert launcher.stderr is not None
        ready(tmp_path, number=1, workers=2)
        os.kill(pid(tmp_path, 1, 1), signal.SIGKILL)
        assert "worker 1 ended with code 137" in launcher.stderr.readline()
        launcher.send_signal(signal.SIGUSR1)
        os.kill(pid(tmp_path, 1, 0), signal.SIGTERM)  # As if it had heard of it.
        ready(tmp_path, number=2, workers=2)
        for rank in (0, 1):
            os.kill(pid(tmp_path, 2, rank), signal.SIGTERM)
        assert launcher.wait(timeout=20) == 0
    assert sizes(tmp_path) == [(2, 0), (2, 0)]


def test_a_job_with_all_its_workers_is_not_disturbed_by_sigusr1(tmp_path: Path) -> None:
    """It says so and goes on."""
    with begun(tmp_path, workers="1:2", code=0) as launcher:
        assert launcher.stderr is not None
        ready(tmp_path, number=1, workers=2)
        launcher.send_signal(signal.SIGUSR1)
        assert launcher.stderr.readline() == "[poseidon-tf] SIGUSR1: all workers run already\n"
        for rank in (0, 1):
            os.kill(pid(tmp_path, 1, rank), signal.SIGTERM)  # On which they end with code 0.
        assert launcher.wait(timeout=20) == 0
    assert sizes(tmp_path) == [(2, 0)]


def test_what_comes_while_the_launcher_is_stopped_is_heeded_when_it_goes_on(tmp_path: Path) -> None:
    """As after Ctrl-Z; any of its threads may be the first to run again, so it is tried often."""
    with begun(tmp_path, workers="1:3", code=0) as launcher:
        assert launcher.stderr is not None
        ready(tmp_path, number=1, workers=3)
        for _ in range(8):
            launcher.send_signal(signal.SIGSTOP)
            os.waitpid(launcher.pid, os.WUNTRACED)
            launcher.send_signal(signal.SIGUSR1)
            launcher.send_signal(signal.SIGCONT)
            assert select.select([launcher.stderr], [], [], 10.0)[0], "it was not heeded"
            assert launcher.stderr.readline() == "[poseidon-tf] SIGUSR1: all workers run already\n"
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=20) == 143


@pytest.mark.parametrize("value", ["0", "3:2", "0:2", "2:", ":2", "2-3", "many", "-1", "1:2:3"])
def test_a_number_of_workers_that_cannot_be_is_refused(value: str) -> None:
    """The message says what may be given."""
    result = CliRunner().invoke(main, ["run", f"--workers={value}", "train.py"])
    assert result.exit_code == 2
    assert f"or MIN:MAX such as 2:4, got {value!r}" in " ".join(result.stderr.split())


def test_a_range_without_restarts_is_refused() -> None:
    """Nothing would ever come of it."""
    result = CliRunner().invoke(main, ["run", "--workers", "2:4", "train.py"])
    assert result.exit_code == 2
    assert "give --max-restarts, or --workers 4" in result.stderr


@pytest.mark.parametrize("counts", [(2, 3), (2, 0), (0, None)])
def test_fewer_at_most_than_at_least_are_refused(counts: Sequence[int | None]) -> None:
    most, least = counts
    assert most is not None
    with pytest.raises(ConfigError, match=f"num_workers={most}, min_workers={least}"):
        run_local(["x.py"], num_workers=most, min_workers=least, environ=os.environ)


def test_a_worker_that_is_left_alone_has_a_server_and_knows_that_others_may_come(
    run: Run, tmp_path: Path
) -> None:
    """In a job of one size it has none."""
    text = (
        TRY + "assert os.environ['POSEIDON_ELASTIC'] == '1'\n"
        "if number == 1: os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)\n"
    )
    ended = run(
        text, str(tmp_path), workers=2, min_workers=1, patience=SHORT, max_restarts=1, environ={}
    )
    assert ended.code == 0
    assert sizes(tmp_path) == [(2, 0), (1, 1)]
    ended = run("import os; assert 'POSEIDON_ELASTIC' not in os.environ", environ={})
    assert ended.code == 0


def test_all_tries_of_a_job_have_one_seed(run: Run, tmp_path: Path) -> None:
    """Another job has another; a user's stays."""
    text = TRY + "print(os.environ['POSEIDON_SEED'], flush=True); sys.exit(number < 3)\n"
    jobs = [tmp_path / name for name in ("first", "second", "third")]
    seeds = []
    for folder, environ in zip(jobs, ({}, {}, {"POSEIDON_SEED": "17"}), strict=True):
        folder.mkdir()
        ended = run(text, str(folder), max_restarts=2, environ=environ)
        assert ended.code == 0 and len(ended.out) == 3
        (said,) = set(ended.out)
        seeds.append(said.removeprefix("[worker 0] "))
    assert seeds[0] != seeds[1] and seeds[2] == "17"
