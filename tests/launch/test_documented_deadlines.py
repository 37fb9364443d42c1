"""The deadlines that docs/failures.md states are those of the code."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from poseidon_tf import Deadlines, PoseidonStrategy
from poseidon_tf.coordinator import client, roster, waiting
from poseidon_tf.launch import server_main
from poseidon_tf.launcher import cli
from poseidon_tf.launcher.supervisor import Patience
from poseidon_tf.session import owing

TEXT = (Path(__file__).parents[2] / "docs" / "failures.md").read_text()


def table(first: str) -> dict[str, str]:
    """By first cell, the second one, of the table whose heading's first cell is `first`."""
    lines = TEXT.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0].strip("`")] = cells[1]
    return rows


def test_the_defaults_are_those_that_were_promised() -> None:
    """A stall is reported after 30 s, every 60 s from then on, and ends at 600 s."""
    deadlines = Deadlines()
    assert (deadlines.stall_report_s, deadlines.stall_repeat_s, deadlines.step_s) == (30, 60, 600)
    assert deadlines.keepalive_s == 30
    parameters = inspect.signature(PoseidonStrategy).parameters
    assert parameters["drift_check_steps"].default == 1000


def test_every_deadline_is_documented_with_its_default() -> None:
    """All of them, and no other; and how often values are compared."""
    assert {name: float(text) for name, text in table("`Deadlines`").items()} == asdict(Deadlines())
    drift = re.search(r"`drift_check_steps` is counted in steps: (\d+)\.", TEXT)
    default = inspect.signature(PoseidonStrategy).parameters["drift_check_steps"].default
    assert drift is not None and int(drift[1]) == default


def test_the_coordinator_reports_at_the_same_times() -> None:
    """Of waits that only it sees, where nobody has given it other times."""
    notices = inspect.signature(roster.Roster).parameters["notices"].default
    deadlines = Deadlines()
    assert notices == (deadlines.stall_report_s, deadlines.stall_repeat_s)


def test_every_option_that_is_a_time_is_documented_with_its_default() -> None:
    """Of `poseidon-tf run` and `poseidon-tf server`."""
    options = {
        f"poseidon-tf {command.name} {option.opts[0]}": option.default
        for command in (cli.run, cli.server)
        for option in command.params
        if option.metavar == "SECONDS"
    }
    assert {name: float(text) for name, text in table("option").items()} == options


@pytest.mark.parametrize(
    "row, seconds",
    [
        ("a server's start", server_main.START_TIMEOUT_S),
        ("notices at the start", waiting.NOTICE_PERIOD_S),
        ("another attempt to join", client.RETRY_S),
        ("a port", server_main.PORT_PATIENCE_S),
        ("who owes", owing.ANSWER_S),
        ("the coordinator's lead", client.GRACE_S),
        ("a goodbye", client.GRACE_S),
        ("a server whose worker is gone", server_main.PARENT_GONE_S),
        ("poseidon-tf run`, a member has failed", Patience().after_failure_s),
        ("poseidon-tf run`, all workers have ended", Patience().after_workers_s),
    ],
)
def test_what_is_fixed_is_documented_as_it_is(row: str, seconds: float) -> None:
    """The constants that have a name."""
    assert float(table("fixed")[row]) == seconds
