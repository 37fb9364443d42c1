"""torchrun, in an environment of its own: `.venv-torch`. The processes run without PyTorch."""

from __future__ import annotations

import pytest

from tests_engines.engine import ROOT, Folder, recipe

pytestmark = pytest.mark.processes
TORCHRUN = str(ROOT / ".venv-torch" / "bin" / "torchrun")


@pytest.mark.parametrize("heading", ["On one host", "On several hosts"])
def test_torchrun_trains_the_same_weights(folder: Folder, digest: str, heading: str) -> None:
    commands = recipe("torchrun.md", heading).replace("torchrun ", f"{TORCHRUN} ")
    assert folder.digest(commands) == digest
