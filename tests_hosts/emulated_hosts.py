"""The benchmarks' emulated hosts, for tests; they are no package that can be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@contextmanager
def emulated_hosts(number: int) -> Iterator[Any]:
    """So many hosts, with links between them; needs root, iproute2 and `tbf` in the kernel."""
    sys.path.insert(0, str(_BENCHMARKS))
    try:
        from lab.hosts import NamespaceHosts
    finally:
        sys.path.remove(str(_BENCHMARKS))
    with NamespaceHosts(number) as found:
        yield found
