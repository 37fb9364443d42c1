"""What `poseidon-tf plan` foretells: its lines, its JSON, its picture, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poseidon_tf.launcher.cli import main
from poseidon_tf.launcher.plan_command import PAYLOAD_SHARE
from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    ModelDescription,
    gradient_times,
    make_plan,
    predict,
    read_times,
)
from poseidon_tf.planner.questions import WAYS
from tests.planner.planner_models import vgg19_22k

SIZES = [224] * 2 + [112] * 2 + [56] * 4 + [28] * 4 + [14] * 4 + [1] * 3


def vgg() -> ModelDescription:
    """VGG19-22K at a batch of 32; layers take as much of a step as they have work."""
    kernels = [spec for spec in vgg19_22k() if spec.name.endswith("kernel")]
    work = [spec.num_elements * size**2 for spec, size in zip(kernels, SIZES, strict=True)]
    shares = [part / sum(work) for part in work]
    names = [spec.name.partition("/")[0] for spec in kernels]
    exist = dict(zip(names, gradient_times(shares, compute_s=1.0), strict=True))
    read = dict(zip(names, read_times(shares, compute_s=1.0), strict=True))
    return ModelDescription(
        batch_size=32,
        step_flops=4 * 10**12,
        specs=tuple(vgg19_22k()),
        needed={spec.name: read[spec.name.partition("/")[0]] for spec in vgg19_22k()},
        exists={spec.name: exist[spec.name.partition("/")[0]] for spec in vgg19_22k()},
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The description of VGG19-22K, as `--describe` saves it."""
    path = tmp_path / "vgg.json"
    path.write_text(vgg().to_json())
    return str(path)


def plan(file: str, *args: str) -> Result:
    return CliRunner().invoke(main, ["plan", file, "--workers", "8", *args])


STEP = ["--link", "10gbit", "--step-seconds", "0.925"]


def foretold(file: str, *args: str) -> dict[str, Any]:
    result = plan(file, "--json", *STEP, *args)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def step_s(file: str, *args: str) -> float:
    return float(foretold(file, *args)["prediction"]["step_seconds"])


@pytest.mark.processes
def test_a_description_answers_without_anything_heavy(file: str) -> None:
    """Neither TensorFlow nor NumPy is loaded, so the answer is there in a fraction of a second."""
    args = ["plan", file, "--workers", "8", *STEP]
    code = (
        "import sys\nfrom poseidon_tf.launcher.cli import main\n"
        f"main({args}, standalone_mode=False)\n"
        "print([name for name in ('tensorflow', 'keras', 'grpc', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert any(line.startswith("8 workers ") for line in lines)


def test_the_answers_are_those_of_the_model_of_a_step(file: str) -> None:
    cluster = ClusterSpec(num_workers=8, num_servers=8, co_located=True)
    machines = Machines(
        link=Link(bits_per_s=10e9, latency_s=50e-6, payload_share=PAYLOAD_SHARE),
        flops_per_s=4e12 / 0.925,
    )
    expected = predict(make_plan(vgg19_22k(), cluster), vgg().timeline(0.925), machines)
    found = foretold(file)
    assert found.keys() == {"plan", "gbit_per_s", "prediction"}
    assert found["prediction"]["step_seconds"] == expected.step_s
    assert found["prediction"]["speedup"] == expected.speedup
    assert found["prediction"]["hidden"] == expected.hidden
    across = predict(
        make_plan(vgg19_22k(), cluster), vgg().timeline(0.925), machines, across_step=True
    )
    assert found["prediction"]["across_the_step"]["step_seconds"] == across.step_s
    assert found["prediction"]["across_the_step"]["speedup"] == across.speedup


def test_the_answers_can_be_read(file: str) -> None:
    """With servers alone the link is what is waited for, and the largest layer is the cause."""
    result = plan(file, *STEP, "--scheme", "*=ps")
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines()[-7:])
    assert lines["one worker alone"] == "0.925 s a step"
    for how in ("8 workers", "across the step"):
        seconds, speedup = lines[how].partition(",")[0], lines[how].split("speedup ")[1]
        seconds, speedup = seconds.removesuffix(" s a step"), speedup.partition(",")[0]
        assert float(speedup) == pytest.approx(8 * 0.925 / float(seconds), rel=0.01)
    assert float(speedup) > 5.4  # In the step: 4.4.
    assert lines["communication"].strip().startswith("1.34 s, of which computation hides ")
    assert lines["bottleneck"].strip().startswith("fc6/kernel: without it a step takes 1.05 s")
    assert " Gbit/s each way" in lines["enough"]
    assert "10 Gbit/s each way, 50 us one way, 4.4% for headers" in lines["assumed"]


@pytest.mark.parametrize(
    "args",
    [
        ["--slow-worker", "1gbit"],
        ["--slow-server", "1gbit"],
        ["--latency", "0.1"],
        ["--cores", "0.1"],
        ["--device-flops", "1e11"],
        ["--scheme", "*=ps"],
    ],
    ids=lambda args: args[0],
)
def test_every_option_that_slows_a_step_down_is_heard(file: str, args: list[str]) -> None:
    assert step_s(file, *args) > 1.05 * step_s(file)


def test_more_devices_have_more_to_join_on_their_host(file: str) -> None:
    one_core = ["--cores", "0.2", "--scheme", "*=ps"]
    assert step_s(file, *one_core, "--devices", "8") > 1.05 * step_s(file, *one_core)


def test_one_server_for_all_has_all_their_bytes_on_its_link(file: str) -> None:
    """Of 229.05 M parameters, from and to each of 8 workers, at 95.6 % of 10 Gbit/s."""
    took_s = step_s(file, "--scheme", "*=ps", "--servers", "1")
    assert took_s == pytest.approx(8 * 229.05e6 * 4 * 8 / 9.56e9 + 0.31, rel=0.01)


def test_sixteen_bits_make_a_step_shorter_and_are_said_to_lose_something(file: str) -> None:
    """For all variables or for those that match; the last pattern counts."""
    servers = ["--scheme", "*=ps"]
    assert step_s(file, *servers, "--wire-dtype", "bfloat16") < 0.8 * step_s(file, *servers)
    kept = ["--wire-dtype", "float16", "--wire-dtype", "*=float32", "--wire-dtype", "fc6/*=float16"]
    data = json.loads(plan(file, *kept, "--json").stdout)
    wires = {each["name"]: each["wire_dtype"] for each in data["variables"]}
    assert {name for name, dtype in wires.items() if dtype == "float16"} == {
        "fc6/kernel",
        "fc6/bias",
    }
    last = plan(file, *kept).stdout.splitlines()[-1]
    assert last.startswith("Not lossless: of 38 gradients 2 are rounded to float16 before they")


@pytest.mark.parametrize("value", ["float8", "*=float64", "=bfloat16", "fc6/*="])
def test_a_type_that_nothing_is_rounded_to_is_refused(file: str, value: str) -> None:
    result = plan(file, "--wire-dtype", value)
    assert result.exit_code == 2
    assert "expected PATTERN=bfloat16, =float16 or =float32, got" in result.stderr


def test_the_curve_doubles_the_workers_and_has_every_way(file: str) -> None:
    result = plan(file, *STEP, "--curve", "1:12")
    assert result.exit_code == 0, result.output
    table = result.stdout.partition("speedup over one worker\n")[2].splitlines()
    assert [line.split()[0] for line in table[3:]] == ["1", "2", "4", "8", "12"]
    data = foretold(file, "--curve", "8:8")
    (row,) = data["curve"]
    assert row["workers"] == 8 and row["hybrid"]["speedup"] == data["prediction"]["speedup"]
    assert row.keys() == {"workers", *WAYS}


@pytest.mark.processes
def test_the_curve_can_be_drawn(file: str, tmp_path: Path) -> None:
    """By a process of its own: matplotlib keeps its fonts open."""
    picture = tmp_path / "curve.svg"
    command = [sys.executable, "-m", "poseidon_tf", "plan", file, "--workers", "8", *STEP]
    subprocess.run([*command, "--curve", "1:4", "--plot", str(picture)], check=True)
    assert "<svg" in picture.read_text()


def test_a_picture_of_an_unknown_kind_is_refused(file: str, tmp_path: Path) -> None:
    result = plan(file, *STEP, "--curve", "1:4", "--plot", str(tmp_path / "curve.what"))
    assert result.exit_code == 2
    assert "svg" in result.stderr and "curve.what" in result.stderr


def test_without_matplotlib_the_error_says_what_to_install(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = plan(file, *STEP, "--curve", "1:4", "--plot", str(tmp_path / "curve.svg"))
    assert (result.exit_code, "pip install matplotlib" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "args, said",
    [
        (["--link", "10gbit"], "--link needs --step-seconds"),
        (["--step-seconds", "1", "--curve", "1:4"], "--curve needs --link"),
        ([*STEP, "--plot", "curve.svg"], "--plot draws --curve"),
        ([*STEP, "--curve", "1:4", "--plan-by", "time"], "--curve is of plans by bytes"),
        (["--link", "10", "--step-seconds", "1"], "expected a rate such as 10gbit"),
        (["--link", "0gbit", "--step-seconds", "1"], "expected a rate such as 10gbit"),
        ([*STEP, "--curve", "4:1"], "expected FIRST:LAST"),
        ([*STEP, "--curve", "1:100000000"], "expected FIRST:LAST"),
        (["--batch-size", "64"], "describes a batch of 32, not of 64"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_sentence(
    file: str, args: list[str], said: str
) -> None:
    result = plan(file, *args)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe"])
def test_a_file_that_is_no_description_is_named_as_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    result = plan(str(path))
    assert (result.exit_code, "not a model's description" in result.stderr) == (2, True)


def test_a_model_needs_a_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.touch()
    result = plan(str(path))
    assert (result.exit_code, "Missing option '--batch-size'" in result.stderr) == (2, True)


def test_a_plan_by_time_is_never_slower(file: str) -> None:
    """Factors of a device that multiplies slowly take longer than the bytes that they save."""
    slow = ["--device-flops", "1e11"]
    by_bytes = foretold(file, *slow)
    by_time = foretold(file, "--plan-by", "time", *slow)
    fc6, was = (
        next(each for each in found["plan"]["variables"] if each["name"] == "fc6/kernel")
        for found in (by_time, by_bytes)
    )
    assert (was["scheme"], fc6["scheme"]) == ("sfb", "ps")
    assert fc6["reason"].endswith("by SFB, which has fewer bytes")
    step_s, was_s = (each["prediction"]["step_seconds"] for each in (by_time, by_bytes))
    assert step_s < 0.9 * was_s
    assert foretold(file, "--plan-by", "time")["plan"] == foretold(file)["plan"]


def test_a_plan_by_time_says_by_which_sizes_it_cuts_and_joins(file: str) -> None:
    given = ("--step-seconds", "0.5", "--link", "10gbit", "--plan-by", "time")
    sizes = "KV pairs of at most 1.0 MiB, small variables together up to 16.0 MiB"
    assert sizes in plan(file, *given).output
    assert sizes not in plan(file, *given[:-2]).output


def test_a_plan_by_time_needs_a_link(file: str) -> None:
    result = plan(file, "--plan-by", "time", "--step-seconds", "1")
    assert result.exit_code == 2
    assert "--plan-by time needs --link" in result.output
