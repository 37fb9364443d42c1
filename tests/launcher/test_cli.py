"""The command line: what it loads, what it passes on, and how errors leave it."""

import json
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poseidon_tf import errors
from poseidon_tf.errors import PoseidonError
from poseidon_tf.launcher.cli import main
from poseidon_tf.planner import VariableSpec
from poseidon_tf.session.deadlines import Deadlines

HEAVY = ("tensorflow", "keras", "grpc", "numpy")


def heavy_modules_after(code: str) -> list[str]:
    report = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    return loaded


@pytest.mark.processes
@pytest.mark.parametrize("args", [["--help"], ["plan", "--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    call = f"from poseidon_tf.launcher.cli import main\nmain({args}, standalone_mode=False)"
    assert heavy_modules_after(call) == []


@pytest.mark.processes
def test_the_check_for_heavy_modules_can_fail() -> None:
    assert heavy_modules_after("import numpy") == ["numpy"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A saved model, as the planner would see it; reading a real one needs TensorFlow."""
    asked = []

    def specs_of_saved_model(path: str, *, batch_size: int) -> list[VariableSpec]:
        asked.append((path, batch_size))
        shape = (4096, 4096)
        kernel = VariableSpec(
            name="fc/kernel", shape=shape, dtype="float32", factors=shape, rows=batch_size
        )
        conv = VariableSpec(name="conv/kernel", shape=(3, 3, 8, 8), dtype="float32", why_not="conv")
        return [conv, kernel]

    fake = types.ModuleType("poseidon_tf.strategy.saved_model")
    fake.specs_of_saved_model = specs_of_saved_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    file = tmp_path / "model.keras"
    file.touch()
    return types.SimpleNamespace(path=str(file), asked=asked)


def plan(model: SimpleNamespace, *args: str) -> Result:
    result = CliRunner().invoke(main, ["plan", model.path, "--batch-size", "32", *args])
    return result


def test_plan_prints_a_table(model: SimpleNamespace) -> None:
    result = plan(model, "--workers", "4", "--step-seconds", "0.5")
    assert result.exit_code == 0
    assert model.asked == [(model.path, 32)]
    assert "fc/kernel" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("each node needs ")


def as_json(model: SimpleNamespace, *args: str) -> Any:
    result = plan(model, "--json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_plan_prints_json_that_is_a_plan_again(model: SimpleNamespace) -> None:
    from poseidon_tf.planner import Plan

    result = plan(model, "--workers", "4", "--json")
    assert Plan.from_json(result.stdout).to_json() == result.stdout.strip()


def test_plan_with_a_step_time_wraps_the_plan(model: SimpleNamespace) -> None:
    bare = as_json(model, "--workers", "4")
    timed = as_json(model, "--workers", "4", "--step-seconds", "0.5")
    assert timed.keys() == {"plan", "gbit_per_s"} and timed["plan"] == bare
    assert timed["gbit_per_s"] > 0


@pytest.mark.parametrize(
    "args, num_servers, co_located",
    [
        ([], 4, True),
        (["--servers", "2"], 2, False),
        (["--servers", "2", "--co-located"], 2, True),
        (["--dedicated"], 4, False),
    ],
)
def test_servers_are_co_located_unless_they_are_counted(
    model: SimpleNamespace, args: list[str], num_servers: int, co_located: bool
) -> None:
    cluster = as_json(model, "--workers", "4", *args)["cluster"]
    assert cluster == {"num_workers": 4, "num_servers": num_servers, "co_located": co_located}


def test_the_scheme_can_be_chosen_by_pattern(model: SimpleNamespace) -> None:
    def scheme(*args: str) -> str:
        table = plan(model, "--workers", "2", *args).stdout
        (line,) = [line for line in table.splitlines() if "fc/kernel" in line]
        return "sfb" if "sfb" in line else "ps"

    assert scheme() == "sfb"
    assert scheme("--scheme", "fc/*=ps") == "ps"
    assert scheme("--scheme", "fc/*=ps", "--scheme", "*kernel=ps", "--scheme", "fc/*=sfb") == "sfb"


@pytest.mark.parametrize("value", ["fc", "fc=", "=ps", "fc=ring"])
def test_a_scheme_that_is_none_is_refused(model: SimpleNamespace, value: str) -> None:
    result = plan(model, "--workers", "2", "--scheme", value)
    assert result.exit_code == 2 and "expected PATTERN=ps, =sfb or =rows" in result.stderr


def test_a_plan_that_cannot_be_is_one_line_and_code_2(model: SimpleNamespace) -> None:
    result = plan(model, "--workers", "2", "--scheme", "nothing=ps")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and "fc/kernel" in result.stderr


@pytest.mark.parametrize(
    "error, code",
    [
        (errors.ConfigError, 2),
        (errors.PlanError, 2),
        (errors.PeerLost, 1),
        (errors.ProtocolError, 1),
    ],
)
def test_the_exit_code_says_who_should_act(
    monkeypatch: pytest.MonkeyPatch, error: type[PoseidonError], code: int
) -> None:
    def serve(**options: float) -> int:
        raise error("what happened")

    fake = types.ModuleType("poseidon_tf.launch.server_main")
    fake.main = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    result = CliRunner().invoke(main, ["server"])
    assert (result.exit_code, result.stderr) == (code, "error: what happened\n")


@pytest.mark.parametrize(
    "args, keepalive_s, resume_s, ports",
    [
        ([], Deadlines().keepalive_s, Deadlines().resume_s, None),  # As workers have them.
        (["--keepalive", "5", "--resume", "0", "--ports", "6000", "6010"], 5.0, 0.0, (6000, 6010)),
    ],
)
def test_server_exits_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    keepalive_s: float,
    resume_s: float,
    ports: tuple[int, int] | None,
) -> None:
    heard = {}

    def serve(**options: Any) -> int:
        heard.update(options)
        return 7

    fake = types.ModuleType("poseidon_tf.launch.server_main")
    fake.main = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    assert CliRunner().invoke(main, ["server", *args]).exit_code == 7
    assert heard == {"keepalive_s": keepalive_s, "resume_s": resume_s, "ports": ports}


@pytest.mark.processes
@pytest.mark.parametrize("separator", [[], ["--"]])
def test_what_follows_the_script_is_the_scripts_own(tmp_path: Path, separator: list[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(9)")
    command = [sys.executable, "-m", "poseidon_tf", "run", "--workers", "1", *separator]
    done = subprocess.run(
        [*command, str(script), "--workers", "5", "--help", "x"], capture_output=True, text=True
    )
    assert done.returncode == 9
    assert done.stdout == "[worker 0] ['--workers', '5', '--help', 'x']\n"


def test_a_mistyped_option_of_ours_is_not_taken_for_the_script() -> None:
    result = CliRunner().invoke(main, ["run", "--workers", "1", "--server", "2", "train.py"])
    assert result.exit_code == 2 and "--servers" in result.stderr


def test_a_missing_script_is_one_line_and_code_2() -> None:
    result = CliRunner().invoke(main, ["run", "--workers", "1", "no_such.py"])
    assert result.exit_code == 2 and result.stderr.startswith("error: there is no script")
