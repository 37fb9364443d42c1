"""The benchmarks of transport, overhead and start-up still run: a small version of each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.processes


def run(script: str, folder: Path, options: str) -> str:
    """What `script` prints, run with `options`, its results going to `folder`."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options.split(), "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that a benchmark wrote, by what they are about."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text())["rows"]:
        found.setdefault(row["what"], []).append(row)
    return found


@pytest.mark.thorough
def test_transport_compares_sums_with_echoes_and_pushes_with_the_link(tmp_path: Path) -> None:
    """Every side is there, and the ratios with a target; those to iperf3 where there is one."""
    sizes = "--mib 2 --pair-kib 128 --factor-kib 256 --steps 2 --push-steps 2"
    printed = run(
        "bench_transport.py", tmp_path, f"{sizes} --repeats 2 --workers 1 2 --iperf3-seconds 1"
    )
    assert "ratio to echo" in printed and ">= 0.85 of echo" in printed
    found = rows(tmp_path / "transport.json")
    ours = found["push-pull"]
    both = [(count, protocol) for count in (1, 2) for protocol in ("grpc", "grpc+tcp")]
    assert [(row["workers"], row["protocol"]) for row in ours] == both
    assert all(row["ratio to echo"] > 0 for row in ours)
    assert [(row["workers"], row["protocol"]) for row in found["push alone"]] == both
    assert all(
        row["GB/s each way"] > 0 for row in (*found["push alone"], *found["factor exchange"])
    )
    if "iperf3, one way" in found:
        assert all(row["ratio to iperf3"] > 0 for row in found["push alone"])


@pytest.mark.thorough
def test_overhead_compares_one_worker_with_tensorflows_own(tmp_path: Path) -> None:
    """Both nets, each against a device strategy and against none."""
    sizes = "--steps 3 --rounds 1 --repeats 1 --units 16 16 4 --variables 7"
    run("bench_overhead.py", tmp_path, f"--parts one {sizes}")
    found = rows(tmp_path / "overhead-one.json")
    assert len(found) == 4
    assert all(row["result"] > 0 and row["unit"] == "ratio" for (row,) in found.values())


@pytest.mark.thorough
def test_overhead_gives_communication_time_and_memory(tmp_path: Path) -> None:
    """What communication adds to a step, and the memory of every process of the job."""
    times = "--steps 3 --rounds 1 --repeats 1 --variables 7"
    sizes = "--memory-units 16 16 4 --memory-steps 12 --memory-every 3"
    run("bench_overhead.py", tmp_path, f"--parts small memory {times} {sizes}")
    ((small,),) = rows(tmp_path / "overhead-small.json").values()
    assert small["ms"] > 0 and small["other ms"] > 0
    found = rows(tmp_path / "overhead-memory.json")
    assert [what[:8] for what in found] == [
        "worker a",
        "worker 0",
        "server 0",
        "worker 1",
        "server 1",
    ]
    assert all(row["rss MB"] >= row["uss MB"] > 0 for (row,) in found.values())


@pytest.mark.thorough
def test_overhead_says_which_part_of_a_step_is_seeing_it(tmp_path: Path) -> None:
    """The step is measured by what is being measured."""
    run("bench_overhead.py", tmp_path, "--parts seeing --steps 6 --variables 7")
    ((row,),) = rows(tmp_path / "overhead-seeing.json").values()
    assert 0 < row["ms"] < row["other ms"] and row["unit"] == "% of a step"


@pytest.mark.thorough
def test_startup_says_what_each_part_of_the_way_costs(tmp_path: Path) -> None:
    """The parts add up to the whole, and a server process is looked at alone."""
    sizes = "--workers 2 --repeats 1 --units 16 16 4 --server-repeats 1"
    run("bench_startup.py", tmp_path, sizes)
    *parts, whole = (row for (row,) in rows(tmp_path / "startup.json").values())
    for column in ("together s", "alone s", "beyond s"):
        for measure in (column, f"CPU {column}"):
            assert sum(part[measure] for part in parts) == pytest.approx(whole[measure])
    assert whole["CPU together s"] > 0 and whole["CPU alone s"] > 0
    server = rows(tmp_path / "startup-server.json")
    assert all(row["CPU s"] > 0 for (row,) in server.values())


@pytest.mark.thorough
def test_plans_by_time_are_timed_beside_those_by_bytes(tmp_path: Path) -> None:
    """Both jobs train the net; which is faster is not asked: it depends on the machine."""
    printed = run("bench_plans.py", tmp_path, "--small --rounds 1 --steps 2")
    assert "time / bytes" in printed
    (row,) = json.loads((tmp_path / "plans.json").read_text())["rows"]
    assert row["by bytes"].split() == ["ps", "sfb", "sfb", "ps"]
    assert len(row["by time"].split()) == 4 and row["time / bytes"] > 0
