"""The comparison with peers still runs: ours alone, which needs no other virtual environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.thorough
@pytest.mark.processes
def test_every_system_gets_a_row_and_its_ratio_to_one_worker_alone(tmp_path: Path) -> None:
    """Planned and PS only, a tiny net, on hosts of their own where this user may make them.

    Half of the bytes leave in 16 bits, with updates across the step.
    """
    systems = ["alone", "planner", "ps", "ps-across-16-bits"]
    options = ["--systems", *systems, "--nets", "tiny", "--links", "unshaped"]
    options += ["--steps", "2", "--warm-up", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench_peers.py"), *options],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "peers.json").read_text())
    rows = {row["system"]: row for row in result["rows"]}
    assert list(rows) == systems
    assert all(row["step ms"] > 0 and row["step / alone"] > 0 for row in rows.values())
    # Half of what goes in and out of the node of a worker and its server, and little else.
    gradients = 4 * (3 * 3 * 3 * 4 + 4 + 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10)
    assert rows["ps"]["link MB/step"] > gradients / 1e6
    halved = rows["ps-across-16-bits"]
    assert halved["link MB/step"] < 0.75 * rows["ps"]["link MB/step"]
    assert halved["step / ps"] > 0
    assert result["versions"]["ps"].keys() >= {"tensorflow", "keras", "grpcio"}
    assert "step / alone" in done.stdout
