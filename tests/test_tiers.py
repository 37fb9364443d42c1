"""What `make test-quick` runs."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COLLECT = """
import sys, pytest
code = pytest.main(sys.argv[1:])
assert code == 0, code
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""


@pytest.mark.processes
def test_the_quick_tests_are_collected_without_tensorflow() -> None:
    """Its import takes longer than all of them."""
    made = subprocess.run(
        ["make", "--silent", "--dry-run", "--assume-old=install", "test-quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(made.stdout.splitlines()[-1])
    args = words[words.index("pytest") + 1 :]
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *args, "--collect-only", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "tests/kv/test_store.py" in done.stdout and "tests/strategy" not in done.stdout
