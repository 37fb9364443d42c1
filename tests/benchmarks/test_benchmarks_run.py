"""The benchmarks still run: a small version of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.processes
def test_the_transport_benchmark_compares_sums_with_echoes(tmp_path: Path) -> None:
    """One table, one JSON file, a ratio for every row of ours."""
    path = tmp_path / "rows.json"
    options = ["--mib", "2", "--pair-kib", "128", "--steps", "2", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_transport.py"), *options],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "stream ended" not in done.stderr
    rows = json.loads(path.read_text())["rows"]
    ours = [row for row in rows if row["what"] == "push-pull"]
    assert [row["workers"] for row in ours] == [1, 2]
    assert all(row["ratio to echo"] > 0 for row in ours)
    assert "ratio to echo" in done.stdout
