"""What the engines' tests share: a folder in which the recipes of `docs/clusters/` are run.

A recipe trains a script named train.py. Here that runs `examples/digits.py`, which is unchanged,
and then writes down a digest of the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(__file__).parent / "scripts"
_MARK = "POSEIDON_ENGINE_TEST"  # In the environment of whatever a test has started.
_END_S, _LOOK_S = 30.0, 0.1
QUICK_S = 10.0  # Of the script itself: to import TensorFlow takes longer on a busy machine.


def recipe(page: str, heading: str) -> str:
    """The first block of commands under `heading` of a page in `docs/clusters/`."""
    _, _, section = (ROOT / "docs" / "clusters" / page).read_text().partition(f"# {heading}\n")
    _, _, block = section.partition("```sh\n")
    commands, _, _ = block.partition("```")
    assert commands, f"{page} has no commands under {heading!r}"
    return commands


@dataclass(frozen=True)
class Ended:
    """How commands have ended: their exit code, and what they printed."""

    code: int
    output: str


class Folder:
    """Where one test runs commands.

    Args:
      path: an empty folder.
      python: of the environment whose programs the commands find first.
    """

    def __init__(self, path: Path, *, python: str = sys.executable) -> None:
        self.path = path
        self._mark = str(uuid.uuid4())
        self._found = path / "found"
        self._found.mkdir()
        shutil.copy(SCRIPTS / "train.py", path)
        shutil.copytree(ROOT / "examples" / "clusters", path, dirs_exist_ok=True)
        self.environ = {
            **{name: value for name, value in os.environ.items() if name != "TF_CONFIG"},
            "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
            "DIGITS": str(ROOT / "examples" / "digits.py"),
            "FOUND": str(self._found),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            # Engines give a process different numbers of processors, and the bits depend on them.
            "TF_NUM_INTRAOP_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            _MARK: self._mark,
        }

    def start(
        self, commands: str, output: Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start commands of the shell, in a session of their own."""
        with output.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=self.path,
                env={**self.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(
        self, commands: str, *, environ: Mapping[str, str] | None = None, timeout_s: float = 150.0
    ) -> Ended:
        """Run commands of the shell to their end; what runs after `timeout_s` is killed."""
        output = self.path / "output.txt"
        process = self.start(commands, output, environ)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ended(process.returncode, output.read_text(errors="replace"))

    def digest(
        self, commands: str, *, environ: Mapping[str, str] | None = None, timeout_s: float = 150.0
    ) -> str:
        """Of the weights that two workers have trained by these commands, and nothing is left."""
        ended = self.run(commands, environ=environ, timeout_s=timeout_s)
        assert ended.code == 0, ended.output[-6000:]
        self.check_nothing_runs()
        return self.found_digest(ended.output)

    def found_digest(self, output: str) -> str:
        """Of the weights that two workers have trained."""
        found = [json.loads(path.read_text()) for path in self._found.iterdir()]
        found.sort(key=lambda each: int(each["rank"]))
        assert [(each["rank"], each["workers"]) for each in found] == [(0, 2), (1, 2)], output
        assert found[0]["digest"] == found[1]["digest"]
        return str(found[0]["digest"])

    def running(self) -> list[psutil.Process]:
        """The processes that this folder's commands have started, and that have not ended."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except psutil.Error:  # It has ended meanwhile, or is the kernel's.
                continue
        return found

    def check_refused(self, ended: Ended, *texts: str) -> None:
        """The commands have failed, said why, at once, and nobody has trained."""
        assert ended.code != 0, ended.output
        missing = [text for text in texts if text not in ended.output]
        assert not missing, f"{missing} not in {ended.output[-6000:]}"
        found = [json.loads(path.read_text()) for path in self._found.iterdir()]
        assert found and all(each["refused_s"] < QUICK_S for each in found), found
        self.check_nothing_runs()

    def check_nothing_runs(self) -> None:
        """Wait until every process has ended that the commands have started."""
        deadline_s = time.monotonic() + _END_S
        while running := self.running():
            if time.monotonic() > deadline_s:
                texts: list[Any] = [process.cmdline() for process in running]
                raise AssertionError(f"still running {_END_S:g} s later: {texts}")
            psutil.wait_procs(running, timeout=_LOOK_S)

    def has(self, name: str) -> bool:
        """Whether a file is there, and not empty."""
        path = self.path / name
        return path.exists() and path.stat().st_size > 0

    def numbers(self, *names: str) -> list[int]:
        """What files hold."""
        return [int((self.path / name).read_text()) for name in names]

    def wait_for(self, is_so: Callable[[], bool], *, timeout_s: float = 150.0) -> None:
        """Until something that engines do not report is so."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline_s:
                texts = [path.read_text()[-4000:] for path in self.path.glob("*.[ot][ux]t")]
                raise AssertionError("\n---\n".join([f"not so after {timeout_s:g} s", *texts]))
            time.sleep(_LOOK_S)

    def end(self) -> None:
        """Kill what is left."""
        for process in self.running():
            process.kill()
