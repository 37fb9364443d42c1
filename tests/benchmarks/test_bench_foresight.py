"""From measurements to predictions, by hand; and a small version of the benchmark."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.planner import ClusterSpec, Host, Link, VariableSpec, make_plan

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """The module, which is found beside its script."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import foresight_model

        yield foresight_model
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_layers_forward_pass_takes_half_of_its_backward_pass(model: Any) -> None:
    """Gradients at 10, 8 and 4 s: backward passes of 2 and 4 s, so the layers above are read
    after 1 and 3 s. A step is no shorter than until its last gradient.
    """
    exists_s = {"a/kernel": 10.0, "a/bias": 10.0, "b/kernel": 8.0, "c/kernel": 4.0}
    timeline = model.timeline_of(exists_s, alone_s=11.0)
    assert timeline.needed_s == {"a/kernel": 0, "a/bias": 0, "b/kernel": 1, "c/kernel": 3}
    assert (timeline.compute_s, model.timeline_of(exists_s, alone_s=9.0).compute_s) == (11, 10)
    assert model.update_byte_s(timeline, 500.0) == pytest.approx(1.0 / 500)


def test_nothing_is_read_after_the_first_gradient_exists(model: Any) -> None:
    timeline = model.timeline_of({"a": 9.0, "b": 1.0, "c": 0.5}, alone_s=9.0)
    assert timeline.needed_s == {"a": 0, "b": 0.5, "c": 0.5}


def test_a_message_and_a_byte_are_told_apart_by_two_nets(model: Any) -> None:
    """100 messages of 1000 bytes in all, and 10 of 100000: at 2 ms and 3 us, sums at 1 us.

    200 + 3 ms and 20 + 300 ms, and 0.5 and 50 ms for what was summed.
    """
    many = model.Asked(100, 1_000, 500, 0.2 + 0.003 + 0.0005)
    wide = model.Asked(10, 100_000, 50_000, 0.02 + 0.3 + 0.05)
    found = model.cpu_costs(many, wide, sum_byte_s=1e-6)
    assert found == pytest.approx((2e-3, 3e-6))


def test_no_cost_is_less_than_nothing(model: Any) -> None:
    """What noise makes of one goes to the other, so that few large messages cost what they did."""
    many, wide = model.Asked(100, 1_000, 0, 0.2), model.Asked(10, 100_000, 0, 0.3)
    found = model.cpu_costs(many._replace(cpu_s=0.0), wide, sum_byte_s=0.0)
    assert found == pytest.approx((0.0, 3e-6))
    found = model.cpu_costs(many, wide._replace(cpu_s=0.01), sum_byte_s=0.0)
    assert found == pytest.approx((1e-3, 0.0))


def test_of_a_plan_for_several_nets_one_is_predicted(model: Any) -> None:
    """1000 bytes of the net's kernel at 500 a second each way, from 1 s on, in one piece.

    It has arrived at 3 s, and 2 s later again from its server. 3 messages of 0.1 s pass meanwhile.
    """
    cluster = ClusterSpec(num_workers=2, num_servers=2, co_located=True)
    specs = [VariableSpec(name=name, shape=(250,), dtype="float32") for name in ("mine", "other")]
    plan = make_plan(specs, cluster, schemes={"*": "ps"}, coalesce_bytes=0)
    timeline = model.timeline_of({"mine": 1.0}, alone_s=1.5)
    exchanges = model.exchanges_of_net(plan, timeline)
    assert [exchange.name for exchange in exchanges] == ["mine"]
    asked = model.asked(exchanges, 0.25)
    assert asked == (2, 2000, 1000, 0.25)
    found = model.predicted_s(
        exchanges,
        workers=2,
        compute_s=timeline.compute_s,
        link=Link(bits_per_s=4000),
        host=Host(cores=1, computing=1, message_s=1e-3, byte_s=0, sum_byte_s=0),
        flops_per_s=None,
        update_byte_s=model.update_byte_s(timeline, 1000),
        across_step=False,
    )
    # 4 messages are sent or received one after the other; then 0.5 s of update.
    assert found == pytest.approx(1.0 + 2.0 + 2.0 + 0.004 + 0.5)


@pytest.mark.parametrize("updates, speedup", [("step", 2.62), ("across", 3.35)])
def test_an_emulated_network_is_predicted_from_what_stands_for_its_links(
    model: Any, updates: str, speedup: float
) -> None:
    """VGG19-22K by 4 servers: a 16th of the bytes over a 16th of 10 Gbit/s gives its bound.

    Hosts that share cores have their part of them, so messages cost more than nothing; and where
    a link holds everything, nothing is gained across the step.
    """
    import foresight_emulated as emulated
    from lab.links import Carried
    from scaling_grid import Cell

    cell = Cell(4, "vgg19-22k", "ps", "free", 10.0, emulated.PACE, updates=updates)
    alone = emulated.Alone(step_s=0.925, cpu_s=0.05)
    free = Host(cores=1, message_s=0.0, byte_s=0.0, sum_byte_s=0.0)
    found = emulated.predicted_s(cell, alone, Carried(10e9 / 16, 0.0), free, 0)
    assert 4 * 0.925 / found == pytest.approx(speedup, rel=0.02)
    endless = emulated.predicted_s(cell, alone, Carried(1e15, 0.0), free, 0)
    assert endless == pytest.approx(0.925, rel=1e-3)
    costly = Host(cores=1, message_s=0.01, byte_s=0.0, sum_byte_s=0.0)
    assert emulated.predicted_s(cell, alone, Carried(1e15, 0.0), costly, 0) > endless
    held = emulated.predicted_s(cell, alone, Carried(10e9 / 16, 0.0), free, 1 << 30)
    assert 4 * 0.925 / held == pytest.approx(2.62, rel=0.02)


def test_errors_are_summed_up(model: Any) -> None:
    rows = [
        model.with_error({"predicted_s": 1 + at / 100, "measured_s": 1.0}) for at in range(-9, 11)
    ]
    found = model.summary(rows)
    assert found["cells"] == 20
    assert found["median error"] == pytest.approx(0.05)
    assert found["90 % within"] == pytest.approx(0.09)
    assert found["worst"] == pytest.approx(0.10)


@pytest.mark.processes
def test_a_processs_cpu_seconds_are_its_childrens_too() -> None:
    """A child has used half a second, and lives on."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from lab.cpu import cpu_s
    finally:
        sys.path.remove(str(BENCHMARKS))
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        assert 0.5 <= cpu_s([process.pid]) < 2.0
        process.stdin.close()


@pytest.mark.thorough
@pytest.mark.processes
def test_a_small_run_predicts_what_it_measures(tmp_path: Path) -> None:
    """One cell, with finite figures. How good they are is not asked: it depends on the machine."""
    command = [sys.executable, str(BENCHMARKS / "bench_foresight.py"), "--small"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "foresight.json").read_text())
    (row,) = result["rows"]
    assert 0 < row["measured_s"] < 60 and 0 < row["predicted_s"] < 60
    assert row["error"] == pytest.approx(row["predicted_s"] / row["measured_s"] - 1)
    assert result["summary"]["cells"] == 1
    assert "median error" in done.stdout
