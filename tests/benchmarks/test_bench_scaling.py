"""The scaling benchmark: its networks against published figures, its bounds, and a small run."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.trace import Recorder

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def grid() -> Iterator[tuple[Any, Any]]:
    """The modules of the benchmark, which are found beside its script."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import architectures
        import scaling_grid

        yield architectures, scaling_grid
    finally:
        sys.path.remove(str(BENCHMARKS))


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "net, parameters, multiply_adds",
    [
        ("vgg19", 143_667_240, 19.6e9),
        ("vgg19-22k", 229_052_817, 19.7e9),
        ("alexnet", 61_100_840, 0.71e9),
        ("googlenet", 6_998_552, 1.58e9),
        ("inception-v3", 23_817_352, 5.7e9),
        ("resnet-152", 60_268_520, 11.3e9),
    ],
)
def test_a_network_has_the_published_size_and_work(
    grid: tuple[Any, Any], net: str, parameters: int, multiply_adds: float
) -> None:
    found = grid[0].net(net)
    assert found.num_parameters == parameters
    assert found.flops / 2 == pytest.approx(multiply_adds, rel=0.01)
    assert len({layer.name for layer in found.layers}) == len(found.layers)


def test_dense_layers_hold_the_share_that_is_published(grid: tuple[Any, Any]) -> None:
    assert grid[0].net("vgg19").dense_share == pytest.approx(0.861, abs=5e-4)
    assert grid[0].net("vgg19-22k").dense_share == pytest.approx(0.912, abs=1e-3)


def test_a_step_takes_what_a_source_says_or_as_long_per_flop(grid: tuple[Any, Any]) -> None:
    nets = {name: grid[0].net(name) for name in grid[0].NETS}
    assert nets["vgg19-22k"].device_s == 0.925
    assert nets["alexnet"].device_s == 0.25
    ratio = nets["resnet-152"].flops / nets["vgg19-22k"].flops
    assert nets["resnet-152"].device_s == pytest.approx(0.925 * ratio)


def test_an_eighth_of_the_sides_is_a_64th_of_the_bytes(grid: tuple[Any, Any]) -> None:
    vgg = grid[0].net("vgg19-22k")
    assert grid[0].scaled_batch(vgg, 8) == 4
    assert [grid[0].scaled(layer, 8) for layer in (vgg.layers[0], vgg.layers[-1])] == [
        (3, 3, 1, 8),
        (512, 2731),
    ]
    assert grid[0].bytes_ratio(vgg, 8) == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize("workers, ideal", [(4, 3.96), (8, 7.81), (16, 15.19)])
def test_a_charged_rebuild_lowers_the_bound(
    grid: tuple[Any, Any], workers: int, ideal: float
) -> None:
    cell = grid[1].Cell(workers, "vgg19-22k", "hybrid", "charged", 40.0)
    assert grid[1].bound(cell) == pytest.approx(ideal, abs=0.006)


def test_without_overlap_the_bound_is_computation_and_then_communication(
    grid: tuple[Any, Any],
) -> None:
    bound = grid[1].bound(grid[1].Cell(4, "vgg19-22k", "no_overlap", "free", 10.0))
    wire_s = 229_052_817 * 4 * 1.5 * 8 / 10e9
    assert bound == pytest.approx(4 * 0.925 / (0.925 + wire_s))


@pytest.mark.parametrize(
    "net, workers, mode, gbe, in_step, across",
    [
        ("vgg19-22k", 4, "ps", 10.0, 2.62, 3.35),
        ("vgg19-22k", 8, "ps", 10.0, 4.64, 5.75),
        ("vgg19-22k", 16, "ps", 10.0, 8.78, 10.74),
        ("vgg19-22k", 8, "hybrid", 2.0, 6.74, 8.00),
        ("vgg19", 8, "ps", 10.0, 6.63, 8.00),
        ("resnet-152", 8, "hybrid", 2.0, 2.33, 2.58),
    ],
)
def test_across_the_step_the_bound_is_higher_where_links_are_waited_for(
    grid: tuple[Any, Any],
    net: str,
    workers: int,
    mode: str,
    gbe: float,
    in_step: float,
    across: float,
) -> None:
    """The figures are another model's, which follows the link from event to event."""
    cell = grid[1].Cell(workers, net, mode, "free", gbe)
    assert grid[1].bound(cell) == pytest.approx(in_step, abs=0.01)
    assert grid[1].bound(cell, across_step=True) == pytest.approx(across, abs=0.01)
    assert grid[1].bound(cell._replace(mode="mirrored"), across_step=True) is None


def test_without_exchange_there_is_one_cell_for_all_links(grid: tuple[Any, Any]) -> None:
    (cell,) = grid[1].product(["vgg19"], [8], [10.0, 40.0], ["lockstep"], "free")
    assert cell.gbe is None and grid[1].bound(cell) is None


def test_the_default_selection_takes_less_than_an_hour(grid: tuple[Any, Any]) -> None:
    cells = grid[1].selection()
    assert len(set(cells)) == len(cells)
    assert grid[1].expected_s(cells, steps=8) < 60 * 60
    in_jobs = [cell for job in grid[1].jobs(cells) for cell in job]
    assert sorted(in_jobs, key=str) == sorted(cells, key=str)


@pytest.mark.thorough
@pytest.mark.processes
def test_overlap_and_factors_are_faster_than_neither_and_a_run_goes_on_where_it_ended(
    tmp_path: Path,
) -> None:
    options = ["--nets", "alexnet", "--workers", "2", "--gbe", "10", "--folder", str(tmp_path)]
    options += ["--modes", "hybrid", "no_overlap", "lockstep", "--warm-up", "1", "--steps", "2"]
    done = run("bench_scaling.py", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    step_s = {row["mode"]: row["step_s"] for row in rows}
    assert step_s.keys() == {"hybrid", "no_overlap", "lockstep"}
    assert all(row["step_s"] > row["device_s"] == 0.25 for row in rows)
    if any(row["gbe"] is not None for row in rows):  # The links were shaped.
        assert step_s["hybrid"] < step_s["no_overlap"]
    again = run("bench_scaling.py", *options)
    assert again.returncode == 0, again.stderr
    assert "0 cells to measure" in again.stdout
    drawn = run("plots.py", "--folder", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "speedup-alexnet.svg").stat().st_size > 0


@pytest.mark.processes
def test_bandwidths_traffic_and_a_timeline_are_drawn(tmp_path: Path) -> None:
    rows = [
        {
            "net": "vgg19",
            "workers": 8,
            "mode": mode,
            "rebuild": rebuild,
            "gbe": gbe,
            "pace": "sleep",
            "stretch": None,
            "speedup": gbe / 10,
            "bound": gbe / 8,
        }
        for gbe in (10.0, 40.0)
        for mode, rebuild in [("hybrid", "free"), ("hybrid", "charged"), ("ps", "free")]
    ]
    # The lockstep has no links, and no panel of its own.
    rows.append(rows[0] | {"mode": "lockstep", "gbe": None, "bound": None})
    (tmp_path / "scaling.json").write_text(json.dumps({"rows": rows}))
    series = {"ps": {"ends_s": [0.0, 0.1, 0.21], "out": [1] * 22, "in": [2] * 22}}
    traffic = {"net": "vgg19", "workers": 2, "gbe": 10.0, "S": 8, "D": 1.0, "bin_s": 0.01}
    traffic |= {"device_s": 0.06, "series": series}
    (tmp_path / "traffic.json").write_text(json.dumps(traffic))
    recorder = Recorder("worker 0", directory=tmp_path / "timeline" / "hybrid")
    for step in range(2):
        for kind in ("gradient ready", "received", "applied"):
            for layer in ("fc1", "conv1_by_ps"):
                recorder.event(kind, f"0/model/{layer}/kernel", step)
    recorder.write()
    drawn = run("plots.py", "--folder", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    expected = {"speedup-vgg19.svg", "bandwidth-vgg19.svg", "traffic.svg", "timeline-hybrid.svg"}
    assert pictures == expected
    speedup = (tmp_path / "speedup-vgg19.svg").read_text()  # matplotlib names each text beside it.
    assert "<!-- 10 GbE -->" in speedup and "<!-- links not shaped -->" not in speedup
    assert "<!-- hybrid (planner) -->" in speedup
    assert "timeline/ps/worker-0.trace.json: not drawn" in drawn.stdout
