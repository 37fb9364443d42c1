"""`poseidon-tf plan` says beforehand what a job will do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from poseidon_tf.launcher.cli import main
from poseidon_tf.planner import Plan
from tests.support.jobs import Job


def planned(path: Path, *options: str) -> str:
    """What the command prints for a saved model."""
    arguments = ["plan", str(path), "--batch-size", "12", "--workers", "2", *options]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.thorough
@pytest.mark.processes
def test_the_command_and_the_running_job_have_the_same_plan(tmp_path: Path) -> None:
    """For nets of plain and other dense layers, attention and words, to the last field."""
    with Job("plan_of_job.py", str(tmp_path), num_workers=2, num_servers=2) as job:
        found = job.results()
    assert found[0]["plan"] == found[1]["plan"]
    said = [
        Plan.from_json(planned(tmp_path / f"{net}.keras", "--servers", "2", "--json"))
        for net in found[0]["nets"]
    ]
    running = Plan.from_json(found[0]["plan"])
    assert Plan.joined(said).first_difference(running) is None


def test_a_file_that_is_no_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """The error names the file and says what was wrong with it."""
    path = tmp_path / "broken.keras"
    path.write_bytes(b"no model")
    done = CliRunner().invoke(main, ["plan", str(path), "--batch-size", "2", "--workers", "2"])
    assert done.exit_code == 2
    assert "cannot load a Keras model" in done.output
