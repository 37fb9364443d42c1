"""How often the fault matrix runs, and the table of what came of it."""

import sys
from pathlib import Path

import pytest
from tabulate import tabulate

# The cases are run by what the small matrix of `make test` uses as well.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "faults"))

HEADERS = ["who", "what", "when", "time to error on each survivor, or the result"]
outcomes = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption("--repeat", type=int, default=1, help="run every case this many times")


def pytest_configure(config):
    config.stash[outcomes] = []


def pytest_generate_tests(metafunc):
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(metafunc.config.getoption("repeat")))


@pytest.fixture
def note(request, capsys):
    """Prints one line for a case at once, and keeps it for the table."""

    def take(outcome):
        request.config.stash[outcomes].append(outcome.row())
        with capsys.disabled():
            print(f"\n{outcome.case}: {outcome.row()[-1]}", end=" ", flush=True)

    return take


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[outcomes]:
        terminalreporter.section("fault matrix")
        terminalreporter.write_line(tabulate(config.stash[outcomes], headers=HEADERS))
