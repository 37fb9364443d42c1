"""The scaling benchmark: its networks against published figures, its bounds, and a small run."""

import json
import re
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
        ("resnet-50", 25_583_592, 3.86e9),
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


@pytest.mark.parametrize(
    "net, gbe, in_step, with_priorities",
    [("vgg19", 4.0, 1.81, 2.14), ("vgg19", 8.0, 3.15, 4.00), ("resnet-50", 4.0, 1.97, 2.36)],
)
def test_across_the_step_nothing_is_gained_where_links_carry_first_what_exists_first(
    grid: tuple[Any, Any], net: str, gbe: float, in_step: float, with_priorities: float
) -> None:
    """What the next step reads first is the last to exist."""
    cell = grid[1].Cell(4, net, "ps", "free", gbe)
    by_updates = {each: grid[1].bound(cell._replace(updates=each)) for each in grid[1].UPDATES}
    assert by_updates["step"] == pytest.approx(in_step, abs=0.01)
    assert by_updates["unordered"] == pytest.approx(in_step, abs=0.01)
    assert by_updates["across"] == pytest.approx(with_priorities, abs=0.01)


def test_sixteen_bits_have_the_bound_of_twice_the_bandwidth(grid: tuple[Any, Any]) -> None:
    cell = grid[1].Cell(8, "vgg19-22k", "ps", "free", 10.0)
    halved = grid[1].bound(cell._replace(wire="bfloat16"))
    assert halved == pytest.approx(grid[1].bound(cell._replace(gbe=20.0)), rel=1e-3)


def test_only_ours_is_measured_across_the_step_and_in_sixteen_bits(grid: tuple[Any, Any]) -> None:
    cells = grid[1].product(["vgg19"], [8], [10.0], grid[1].MODES, "free")
    chosen = grid[1].with_updates(cells, ["step", "across"], ["float32", "bfloat16"])
    assert len(chosen) == 3 * len(grid[1].OURS) + len(grid[1].MODES)
    assert {c.mode for c in chosen if c.updates == "across"} == {"hybrid", "ps"}


@pytest.mark.parametrize("cells, minutes", [("targets", 50), ("sweep", 12)])
def test_what_was_new_is_measured_in_minutes(
    grid: tuple[Any, Any], cells: str, minutes: int
) -> None:
    chosen = getattr(grid[1], cells)()
    assert len(set(chosen)) == len(chosen)
    assert grid[1].expected_s(chosen, steps=6) < minutes * 60
    models = [model for job in grid[1].jobs(chosen) for model in grid[1].models(job)]
    assert sorted((cell for model in models for cell in model), key=str) == sorted(chosen, key=str)


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


@pytest.mark.thorough
@pytest.mark.processes
def test_updates_across_the_step_and_sixteen_bits_are_measured(tmp_path: Path) -> None:
    """A worker that could not defer its updates would say why, and there would be no row."""
    options = ["--nets", "alexnet", "--workers", "2", "--gbe", "10", "--folder", str(tmp_path)]
    options += ["--modes", "ps", "--pace", "queue", "--warm-up", "1", "--steps", "2"]
    options += ["--updates", "across", "unordered", "--wires", "bfloat16"]
    done = run("bench_scaling.py", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(row["updates"], row["wire"]) for row in rows] == [
        ("across", "bfloat16"),
        ("unordered", "bfloat16"),
    ]
    assert all(row["step_s"] > 0.9 * row["device_s"] == 0.225 for row in rows)


@pytest.mark.thorough
@pytest.mark.tensorflow
def test_an_emulated_layer_waits_for_the_one_before_it_and_for_its_own_variables(
    grid: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the host is doing meanwhile, if the accelerator has its layers ahead of time."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import emulation
    import tensorflow as tf

    accelerator = emulation.Accelerator()
    accelerator.queues = True
    x = tf.zeros([1])

    def layer(seconds: float, *, chained: bool, there_s: float) -> float:
        """When it ended, by the clock of timestamps."""
        there = tf.constant(there_s, tf.float64)
        accelerator.work_after(x, seconds, chained=chained, variables_there=there)
        return accelerator.busy_until_s

    first_s = layer(0.001, chained=False, there_s=0.0)
    ready_s = layer(0.25, chained=True, there_s=first_s - 1.0)
    assert ready_s == pytest.approx(first_s + 0.25, abs=1e-5)
    late_s = layer(0.125, chained=True, there_s=ready_s + 0.5)
    assert late_s == pytest.approx(ready_s + 0.5 + 0.125, abs=1e-5)
    accelerator.queues = False
    assert layer(0.001, chained=True, there_s=0.0) > late_s


def results_of(folder: Path) -> None:
    """Results of every target and of the sweep, as good as the bounds."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import scaling_grid
        from lab.peers import MODES
    finally:
        sys.path.remove(str(BENCHMARKS))
    rows = []
    for cell in [*scaling_grid.targets(), *scaling_grid.sweep()]:
        bound = scaling_grid.bound(cell)
        assert bound is not None
        rows.append({**cell._asdict(), "speedup": bound, "step_s": 2.0 / bound})
    machine = {"date": "2030-01-02T03:04", "cpu": "a CPU", "cores": 2, "kernel": "6.1"}
    machine |= {"tensorflow": "2.21", "grpcio": "1.85", "commit": "abc"}
    (folder / "scaling.json").write_text(json.dumps({"rows": rows, "machine": machine}))
    systems = list(MODES.values())
    peers = [
        {"link": "1gbit", "net": "mlp", "system": system, "step ms": ms}
        for system, ms in zip(systems, (700.0, 690.0, 360.0, 350.0), strict=True)
    ]
    found = {"rows": peers, "systems": dict.fromkeys(systems, ""), "machine": machine}
    (folder / "peers.json").write_text(json.dumps(found))


@pytest.mark.processes
def test_what_was_measured_goes_into_the_documentation(tmp_path: Path) -> None:
    """Tables between their comments, which stay for the next time, and pictures beside them."""
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    (docs / "benchmarks").mkdir(parents=True)
    own = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    (docs / "benchmarks.md").write_text(own)
    results_of(results)
    done = run("publish.py", "--folder", str(results), "--docs", str(docs))
    assert done.returncode == 0, done.stderr
    page = (docs / "benchmarks.md").read_text()
    assert page.count("Measured on 2030-01-02: a CPU, 2 cores, Linux 6.1") == 3
    assert "| VGG19-22K, PS only, 10 GbE, 4 workers " in page
    blocks = "".join(re.findall(r"<!-- measured: .*?<!-- end of ", page, re.DOTALL))
    assert blocks.count("| met ") == 9
    assert "| <= 0.55  | 0.51      | met" in page
    assert page.count("![throughput against bandwidth]") == 2
    first = own.index("<!-- measured: ")
    assert page[:first] == own[:first]
    assert page[page.rindex("<!-- end of ") :] == own[own.rindex("<!-- end of ") :]
    pictures = {path.name for path in (docs / "benchmarks").iterdir()}
    assert pictures == {"sweep-vgg19.svg", "sweep-resnet-50.svg"}


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
    carried = {"ends_s": [0.0, 0.1, 0.21], "out": [1] * 22, "in": [2] * 22}
    series = dict.fromkeys(("ps", "ps across", "ps across bfloat16"), carried)
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
    traffic_picture = (tmp_path / "traffic.svg").read_text()
    assert "<!-- parameter servers, across the step -->" in traffic_picture
    assert "<!-- parameter servers, across the step, 16 bits -->" in traffic_picture
    assert "timeline/ps/worker-0.trace.json: not drawn" in drawn.stdout
