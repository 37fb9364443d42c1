"""What every engine is compared with, and that no test leaves a process behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests_engines.engine import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    folder.end()


@pytest.fixture(scope="session")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the weights that two workers train by TF_CONFIG."""
    folder = Folder(tmp_path_factory.mktemp("tf_config"))
    yield folder.digest("poseidon-tf run --workers 2 train.py")
    folder.end()
