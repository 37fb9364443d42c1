"""What a benchmark leaves: a table for people, JSON with the machine's facts for programs."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tabulate import tabulate

RESULTS = Path(__file__).resolve().parent.parent / "results"
_PACKAGES = ("tensorflow", "keras", "grpcio", "numpy")


def save(
    name: str, rows: Sequence[Mapping[str, Any]], *, folder: str | Path = RESULTS, **facts: Any
) -> Path:
    """Print `rows` as a table and write them to `<folder>/<name>.json`, whose path is returned.

    Args:
      facts: what else a reader needs, such as the options of this run.
    """
    print(table(rows), flush=True)
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, **facts, "machine": machine(), "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}", flush=True)
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows below each other; a value that a row lacks is an empty cell."""
    # By hand: tabulate takes the columns of the first row alone to be all of them.
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column) for column in columns] for row in rows]
    return tabulate(cells, headers=columns, floatfmt=".4g")


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code, and which code it was."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_fact("model name") or platform.machine(),
        # TensorFlow, oneDNN and NumPy choose their kernels by them.
        "vector_instructions": [f for f in _cpu_fact("flags").split() if f.startswith("avx")],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent)
    return done.stdout.strip() or "unknown"


def _cpu_fact(name: str) -> str:
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
