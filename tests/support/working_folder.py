"""Where the processes of a test run work: a folder of the run, for what a failed job leaves."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A job that fails writes its last events into the working folder."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("working"))
    yield
    os.chdir(before)
