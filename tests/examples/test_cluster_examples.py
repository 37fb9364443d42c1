"""The examples for clusters can be read by what reads them; `tests_engines` runs them."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "examples" / "clusters"
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_compiles_and_says_how_it_is_started(path: Path) -> None:
    tree = ast.parse(path.read_text(), filename=path.name)
    assert f"{path.name} train.py" in (ast.get_docstring(tree) or "")


@pytest.mark.processes
def test_the_batch_script_is_one_of_the_shell_and_its_options_come_first() -> None:
    """Slurm reads them as far as the first command."""
    path = CLUSTERS / "slurm.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]


@pytest.mark.processes
def test_the_batch_script_starts_as_many_tasks_as_there_are_nodes(tmp_path: Path) -> None:
    """Which may be more than were asked for at least; all runs of a job get its number as seed."""
    called = tmp_path / "srun"
    called.write_text('#!/bin/sh\necho "$POSEIDON_SEED" "$@"\n')
    called.chmod(0o755)
    done = subprocess.run(
        ["bash", CLUSTERS / "slurm.sbatch", "train.py", "--epochs", "3"],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_NTASKS_PER_NODE": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "4711 --ntasks=6 --wait=60 python train.py --epochs 3\n"


def test_every_example_is_in_a_recipe() -> None:
    """And every recipe's example is there."""
    pages = (ROOT / "docs" / "clusters").glob("*.md")
    commands = " ".join(block for page in pages for block in COMMANDS.findall(page.read_text()))
    named = {name for name in re.findall(r"\b[a-z_]+\.(?:sbatch|py)\b", commands)}
    examples = {path.name for path in CLUSTERS.iterdir() if path.is_file()}
    assert examples <= named
    assert {name for name in named if name.startswith(("ray", "slurm", "spark"))} <= examples
