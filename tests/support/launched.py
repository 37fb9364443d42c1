"""Runs `poseidon-tf run` for a test, without importing TensorFlow in each worker."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support import warm


@dataclass
class Launched:
    """How the command has ended, and what it and its members have printed."""

    code: int
    stdout: str
    stderr: str


def run(*args: str, environ: Mapping[str, str] | None = None, timeout_s: float = 240.0) -> Launched:
    """`poseidon-tf` with these arguments.

    Args:
      environ: on top of this process's.
    """
    given = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        **(environ or {}),
    }
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = warm.start_launcher(args, given, stdout, stderr)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()  # Its guardian ends the members.
            process.wait()
            raise
        for each in (stdout, stderr):
            each.seek(0)
        return Launched(code, *(each.read().decode() for each in (stdout, stderr)))
