"""How often the cases of a fault matrix run, a line for each as it ends, and the table of all.

A plugin of pytest, for the folders whose cases do not run in `make test`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tabulate import tabulate

HEADERS = ["who", "what", "when", "time to error on each survivor, or the result"]
Note = Callable[[str, str, str, str], None]
_rows = pytest.StashKey[list[tuple[str, str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--repeat", type=int, default=1, help="run every case this many times")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(metafunc.config.getoption("repeat")))


@pytest.fixture
def note(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Note:
    """Prints one line for a case at once, and keeps it for the table: who, what, when, result."""

    def take(who: str, what: str, when: str, result: str) -> None:
        request.config.stash[_rows].append((who, what, when, result))
        with capsys.disabled():
            print(f"\n{who}, {what}, {when}: {result}", end=" ", flush=True)

    return take


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = terminalreporter.config.stash[_rows]
    if rows:
        terminalreporter.section("fault matrix")
        terminalreporter.write_line(tabulate(rows, headers=HEADERS))
