"""A real browser opens the report of a real job."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from poseidon_tf.launcher.cli import main
from tests.support.jobs import Job

pytestmark = pytest.mark.processes

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    with Job("timeline.py", str(folder / "timeline")) as job:
        job.results()
    done = CliRunner().invoke(
        main, ["timeline", str(folder / "timeline"), "--html", str(folder / "report.html")]
    )
    assert done.exit_code == 0, done.output
    return folder / "report.html"


def chromium(report: Path, *options: str) -> str:
    """What it prints on standard output."""
    done = subprocess.run(
        [
            "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={report.parent / 'profile'}",
            "--window-size=1100,1400",
            *options,
            report.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout


def test_the_browser_finds_a_picture_of_a_step(report: Path) -> None:
    dom = chromium(report, "--dump-dom")
    assert dom.count("<rect ") >= 2 * (3 + 2 * 2)  # A bar in three parts, and two exchanges.
    assert dom.count("<table>") == 4 and "worker rank 1: waiting, " in dom


def test_the_browser_draws_it(report: Path) -> None:
    picture = report.with_suffix(".png")
    chromium(report, f"--screenshot={picture}")
    drawn = picture.read_bytes()
    assert drawn.startswith(PNG) and len(drawn) > 30_000, "hardly anything is on it"
