"""How a script of a test job says what it found."""

import json
from typing import Any


def result(name: str, value: Any) -> None:
    """Print one finding for the test to collect."""
    print(f"\nRESULT {name} {json.dumps(value)}", flush=True)
