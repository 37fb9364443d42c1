"""A local job of one small script, and the promise that nothing of it stays."""

import io
import os
import sys
from pathlib import Path

import pytest

from poseidon_tf.launcher.local import run_local
from poseidon_tf.launcher.supervisor import Patience
from tests.launcher.local_jobs import Ended, Run
from tests.support.leftovers import nothing_outlives_its_test  # noqa: F401


@pytest.fixture
def run(tmp_path: Path) -> Run:
    script = tmp_path / "train.py"

    def run(
        text: str,
        *args: str,
        workers: int = 1,
        min_workers: int | None = None,
        servers: int | None = None,
        server: str = "",
        patience: Patience | None = None,
        environ: dict[str, str] | None = None,
        max_restarts: int = 0,
    ) -> Ended:
        script.write_text(text)
        out, err = io.StringIO(), io.StringIO()
        code = run_local(
            [str(script), *args],
            num_workers=workers,
            min_workers=min_workers,
            num_servers=servers,
            environ=dict(os.environ) if environ is None else environ,
            stdout=out,
            stderr=err,
            patience=patience,
            server_command=[sys.executable, "-c", server],
            max_restarts=max_restarts,
        )
        return Ended(code, out.getvalue().splitlines(), err.getvalue().splitlines())

    return run
