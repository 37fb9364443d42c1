"""Nothing that comes in is ever run: no pickle, no eval, no shell, in the whole package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "poseidon_tf"
# Their formats name code to be called, or are code.
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "compile", "execfile"}
METHODS = {("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load")}
# Where a keyword makes the difference, and its one safe value.
KEYWORDS = {"allow_pickle": False, "shell": False, "safe_mode": True}
# Without this keyword, numpy's own default is safe today and was not always.
MUST_SAY = {"load": "allow_pickle", "save": "allow_pickle"}


def runs_data(source: str) -> Iterator[str]:
    """What in this source could run, or make somebody run, what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module.split(".")[0] in MODULES else []
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                found = [name]
            case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr=name), keywords=given):
                found = [f"{of}.{name}"] if (of, name) in METHODS else []
                said = {each.arg for each in given}
                if of in ("np", "numpy") and MUST_SAY.get(name, "") not in said | {""}:
                    found.append(f"{of}.{name} without {MUST_SAY[name]}")
            case _:
                continue
        yield from (f"line {node.lineno}: {name}" for name in found)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.keyword(arg=str(name), value=value) if name in KEYWORDS:
                if not (isinstance(value, ast.Constant) and value.value is KEYWORDS[name]):
                    yield f"line {value.lineno}: {name}="


@pytest.mark.parametrize(
    "file",
    [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))],
)
def test_no_module_runs_what_it_reads(file):
    """Bytes become numbers, texts and protobuf messages, never objects of their own choice."""
    assert list(runs_data((PACKAGE / file).read_text())) == []


@pytest.mark.parametrize(
    "source, what",
    [
        ("import pickle", "pickle"),
        ("def f():\n    from marshal import loads", "marshal"),
        ("import multiprocessing, dill.source", "dill.source"),
        ("eval('1')", "eval"),
        ("x = [exec(y) for y in z]", "exec"),
        ("compile(text, '', 'exec')", "compile"),
        ("np.load(file, allow_pickle=True)", "allow_pickle="),
        ("np.load(file, allow_pickle=flag)", "allow_pickle="),
        ("np.load(file)", "np.load without allow_pickle"),
        ("yaml.load(text)", "yaml.load"),
        ("os.system(text)", "os.system"),
        ("subprocess.run(text, shell=True)", "shell="),
        ("keras.models.load_model(path, safe_mode=False)", "safe_mode="),
    ],
)
def test_a_planted_one_is_found(source, what):
    """The check can fail."""
    (found,) = runs_data(source)
    assert found.endswith(f": {what}")


@pytest.mark.parametrize(
    "source",
    [
        "json.loads(text)",
        "np.load(file, allow_pickle=False)",
        "model.compile('sgd')",
        "re.compile('a')",
        "subprocess.run(['a'], shell=False)",
    ],
)
def test_what_is_harmless_is_not_found(source):
    """The check does not cry wolf."""
    assert list(runs_data(source)) == []
