"""The cases are run by what the small matrix of `make test` uses as well, and give one table."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "faults"))

pytest_plugins = ["tests.support.fault_table"]
