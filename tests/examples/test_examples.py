"""The examples as a user starts them: two workers, two servers, one command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import launched

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
SCHEMES = ("ps", "rows", "sfb")
PREFIX = re.compile(r"^\[(worker [01]|server [01]|poseidon-tf)\] ")


def run_example(name: str, *, num_servers: int = 2) -> list[str]:
    """All lines that the job printed."""
    servers = ["--servers", str(num_servers)] if num_servers else []
    script = str(ROOT / "examples" / name)
    done = launched.run("run", "--workers", "2", *servers, script)
    assert done.code == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def run_script(path: str, *, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    """What it prints without a cluster."""
    done = subprocess.run(
        [sys.executable, path],
        cwd=ROOT,
        env={name: value for name, value in environ.items() if name != "TF_CONFIG"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.splitlines()


def schemes(lines: list[str]) -> dict[str, str]:
    """By variable, the scheme in the plan that rank 0 printed."""
    rows = (line.removeprefix("[worker 0] ").split() for line in lines)
    return {row[0]: row[2] for row in rows if len(row) > 2 and row[2] in SCHEMES}


def said(lines: list[str], pattern: str) -> dict[str, list[float]]:
    """By worker, the numbers that it printed behind `pattern`, in order."""
    found: dict[str, list[float]] = {}
    for line in lines:
        if match := re.match(rf"^\[(worker \d+)\] {pattern}([0-9.]+)$", line):
            found.setdefault(match[1], []).append(float(match[2]))
    return found


def test_digits_learns_and_uses_both_schemes() -> None:
    """`make demo`: over 95 % right, fc1 by sufficient factors, the rest by the servers."""
    lines = run_example("digits.py")
    assert [line for line in lines if not PREFIX.match(line)] == []
    accuracy = said(lines, r"accuracy on 357 held-out digits: ")
    assert set(accuracy) == {"worker 0", "worker 1"}
    assert accuracy["worker 0"] == accuracy["worker 1"]
    assert accuracy["worker 0"][0] >= 0.95
    assert schemes(lines) == {
        "digits/conv1/kernel": "ps",
        "digits/conv1/bias": "ps",
        "digits/conv2/kernel": "ps",
        "digits/conv2/bias": "ps",
        "digits/fc1/kernel": "sfb",
        "digits/fc1/bias": "sfb",
        "digits/fc2/kernel": "ps",
        "digits/fc2/bias": "ps",
    }


def test_the_loss_of_a_custom_loop_falls_alike_on_all_workers() -> None:
    """A loop in a tf.function: the same falling losses on both workers, by both schemes."""
    lines = run_example("custom_loop.py")
    assert [line for line in lines if not PREFIX.match(line)] == []
    losses = said(lines, r"epoch \d+: loss ")
    assert set(losses) == {"worker 0", "worker 1"}
    assert losses["worker 0"] == losses["worker 1"]
    assert losses["worker 0"][-1] < losses["worker 0"][0] / 2
    assert set(schemes(lines).values()) == {"ps", "sfb"}


def test_the_transformer_is_fine_tuned_on_text() -> None:
    """The next word is guessed better, then most topics are right; the table travels as rows."""
    lines = run_example("text.py", num_servers=0)
    assert [line for line in lines if not PREFIX.match(line)] == []
    assert said(lines, r"loss of the next word: [0-9.]+, then ")["worker 1"][0] < 4.5
    accuracy = said(lines, r"accuracy on \d+ held-out passages: ")
    assert set(accuracy) == {"worker 0", "worker 1"}
    assert accuracy["worker 0"] == accuracy["worker 1"]
    assert accuracy["worker 0"][0] >= 0.5
    found = schemes(lines)
    assert found.pop("words/embeddings") == "rows"
    assert set(found.values()) == {"ps"} and "topic/kernel" in found


def test_the_custom_loop_also_runs_alone() -> None:
    """One worker without TF_CONFIG: no plan, no server, the same program."""
    lines = run_script("examples/custom_loop.py")
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert losses[-1] < losses[0] / 2
    assert schemes(lines) == {}


def test_the_script_of_the_migration_page_saves_on_the_chief_alone() -> None:
    """One accuracy on both workers, and a checkpoint that only rank 0 has written."""
    lines = run_example("migrated.py")
    assert [line for line in lines if not PREFIX.match(line)] == []
    accuracy = said(lines, "accuracy of the last epoch: ")
    assert set(accuracy) == {"worker 0", "worker 1"}
    assert accuracy["worker 0"] == accuracy["worker 1"]
    saved = [line.split("]")[0] for line in lines if "best.weights.h5 has" in line]
    assert saved == ["[worker 0"]


@pytest.mark.thorough
def test_the_notebook_runs_a_job(tmp_path: Path) -> None:
    """Its cells, in order: two workers have left a plan, a history and a model that is right."""
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells))
    lines = run_script(str(script), environ={**ENVIRON, "TMPDIR": str(tmp_path)})
    assert "P1 = 2 workers" in "\n".join(lines)
    assert re.search(r"^epoch 3: accuracy 0\.[89]", "\n".join(lines), re.MULTILINE)
    (probability,) = [line for line in lines if line.startswith("probability of a one: ")]
    assert float(probability.split()[-1]) > 0.8


def test_the_migration_page_shows_the_script_that_runs() -> None:
    """Between its imports and its end the page's script is the example, line by line."""
    page = (ROOT / "docs" / "migration.md").read_text()
    script = (ROOT / "examples" / "migrated.py").read_text()
    start = script.index("strategy = poseidon_tf")
    assert script[start : script.index("accuracy = ")].strip() in page
