"""The tutorial, walked: its script and its commands, as they stand on the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
ENVIRON = {
    **{name: value for name, value in os.environ.items() if name != "TF_CONFIG"},
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}


def blocks(heading: str, language: str) -> list[str]:
    """What the section has in this language, in order."""
    _, _, section = PAGE.partition(f"\n## {heading}\n")
    assert section, heading
    section, _, _ = section.partition("\n## ")
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader has saved `train.py`."""
    path = tmp_path_factory.mktemp("tutorial")
    (script,) = blocks("2. Your own script", "python")
    (path / "train.py").write_text(script)
    return path


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        f"set -e\n{command}",
        shell=True,
        cwd=folder,
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """Of the job of two workers."""
    (command,) = blocks("2. Your own script", "sh")
    return shell(command, folder)


def test_the_script_prints_what_the_page_shows(printed: str) -> None:
    """Steps and bytes, and the rows of the plan."""
    (ending,) = blocks("2. Your own script", "text")
    (plan,) = blocks("3. Read the plan", "text")
    lines = [line.removeprefix("[worker 0] ").strip() for line in printed.splitlines()]
    shown = [line.removeprefix("[worker 0] ").strip() for line in (ending + plan).splitlines()]
    assert [line for line in shown if line not in lines] == []


def test_the_predictions_are_those_of_the_page(printed: str, folder: Path) -> None:
    """Of the saved model: for two workers, for eight, and for eight with servers only."""
    (commands,) = blocks("3. Read the plan", "sh")
    said = re.findall(r"speedup ([0-9.]+)$", shell(commands, folder), re.MULTILINE)
    assert len(said) == 3
    _, _, text = PAGE.partition("Below each plan is a prediction.")
    assert re.findall(r"\d\.\d\d", text)[:3] == said


def test_the_timelines_can_be_joined(printed: str, folder: Path) -> None:
    """Of two workers and the servers that they have started; and a report can be written."""
    join, report = blocks("4. Look at a step", "sh")
    assert shell(join, folder).startswith("4 traces in timeline.json")
    assert json.loads((folder / "timeline.json").read_text())
    shell(report, folder)
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")


def test_a_running_job_can_be_watched(printed: str, folder: Path) -> None:
    """With the token that the page chooses, at the address that rank 0 prints."""
    start, watch = blocks("6. Watch it", "sh")
    script = (folder / "train.py").read_text()
    (folder / "train.py").write_text(script.replace("epochs=3,", "epochs=300,"))
    token = {"POSEIDON_TOKEN": start.partition("POSEIDON_TOKEN=")[2].split()[0]}
    job = subprocess.Popen(
        start.splitlines()[-1].split(),
        cwd=folder,
        env=ENVIRON | token,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert job.stdout is not None
        pattern = re.compile(r"members are here \(the coordinator is ([0-9.:]+)\)")
        addresses = (found[1] for line in job.stdout if (found := pattern.search(line)))
        address = next(addresses)
        export = start.splitlines()[0]
        command = re.sub(r"127\.0\.0\.1:\d+", address, watch.strip())
        said = shell(f"{export}\n{command} --once", folder)
        assert "4 of 4 members here" in said and f"worker rank 0   {address}" in said
    finally:
        job.terminate()
        job.communicate(timeout=60)
