"""Nothing that comes in is ever run: no pickle, no eval, no shell, in the whole package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import poseidon_tf

PACKAGE = Path(__file__).parents[1] / "poseidon_tf"
# Their formats name code to be called, or are code; or they run what they are given.
MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "jsonpickle", "joblib", "copyreg"),
    *("marshal", "shelve", "multiprocessing", "builtins", "runpy", "imp", "code", "codeop", "pty"),
}
# Not to be called, given a name, or handed on. Those of builtins stand without their module.
NAMES = {
    *("eval", "exec", "execfile", "compile", "__import__", "__builtins__"),
    *("importlib.import_module", "importlib.reload", "importlib.util", "importlib.machinery"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "types.CodeType", "types.FunctionType"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "torch.load"),
    *("numpy.lib.format", "concurrent.futures.ProcessPoolExecutor"),
    *("logging.config", "keras.config.enable_unsafe_deserialization"),
}
# Where a keyword makes the difference, and its one safe value.
KEYWORDS = {"allow_pickle": False, "shell": False, "safe_mode": True}
# Only to be called, and with this keyword: numpy's own default is safe today and was not always.
MUST_SAY = {"numpy.load": "allow_pickle", "numpy.save": "allow_pickle"}
# Names that are usual, should a file not say what they are.
USUAL = {"np": "numpy", "tf": "tensorflow"}
# The package's own modules by name, for the names that it makes public.
ALLOWED = {"__init__.py": ["importlib.import_module"]}


def runs_data(source: str) -> Iterator[tuple[int, str]]:
    """What in this source could run, or make somebody run, what it reads: line and name."""
    tree = ast.parse(source)
    known = USUAL | dict(_imported_names(tree))
    called = set()
    for node in ast.walk(tree):
        for name in _imported_modules(node):
            if _is_of(name, MODULES) or name in NAMES | set(MUST_SAY):
                yield getattr(node, "lineno", 0), name
        match node:
            case ast.Call(keywords=given):
                name = _dotted(node.func, known)
                called.add(node.func)
                if name in MUST_SAY and MUST_SAY[name] not in {each.arg for each in given}:
                    yield node.lineno, f"{name} without {MUST_SAY[name]}"
            case ast.keyword(arg=str(arg), value=value) if arg in KEYWORDS:
                if not (isinstance(value, ast.Constant) and value.value is KEYWORDS[arg]):
                    yield value.lineno, f"{arg}="
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            name = _dotted(node, known)
            if name in NAMES or (name in MUST_SAY and node not in called):
                yield node.lineno, name


def _imported_modules(node: ast.AST) -> list[str]:
    """Whatever is imported here, by its full name; of a star what a star could bring."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            found = [f"{module}.{alias.name}" for alias in names]
            if names[0].name == "*":
                found = [name for name in NAMES | set(MUST_SAY) if name.startswith(f"{module}.")]
            # One that is no module's is a name of it: `from pickle import loads`.
            return [module] if _is_of(module, MODULES) else [_unprefixed(name) for name in found]
        case _:
            return []


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What names stand for in a file because of its imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.asname:
                        yield alias.asname, alias.name
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for alias in names:
                    yield alias.asname or alias.name, f"{module}.{alias.name}"


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The full name that an expression is; empty if it is none."""
    match node:
        case ast.Name(id=name):
            return _unprefixed(known.get(name, name))
        case ast.Attribute(value=of, attr=attribute) if name := _dotted(of, known):
            return _unprefixed(f"{name}.{attribute}")
        case ast.Call(
            func=ast.Name(id="getattr"), args=[of, ast.Constant(value=str(attribute)), *_]
        ):
            name = _dotted(of, known)
            return _unprefixed(f"{name}.{attribute}") if name else ""
        case _:
            return ""


def _unprefixed(name: str) -> str:
    return name.removeprefix("builtins.")


def _is_of(name: str, modules: set[str]) -> bool:
    return name.split(".")[0] in modules


@pytest.mark.parametrize(
    "file",
    [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))],
)
def test_no_module_runs_what_it_reads(file: str) -> None:
    """Bytes become numbers, texts and protobuf messages, never objects of their own choice."""
    found = list(runs_data((PACKAGE / file).read_text()))
    assert [name for _, name in found] == ALLOWED.get(file, []), found


def test_what_is_imported_by_name_is_of_the_package() -> None:
    """The one call of `import_module` takes its modules' names from a table in the source."""
    assert all(home.startswith("poseidon_tf.") for home in poseidon_tf._HOMES.values())


@pytest.mark.parametrize(
    "source, what",
    [
        ("import pickle", "pickle"),
        ("import pickle as p", "pickle"),
        ("def f():\n    from marshal import loads", "marshal"),
        ("import shelve", "shelve"),
        ("from builtins import exec as run", "builtins"),
        ("import json, dill.source", "dill.source"),
        ("from multiprocessing.connection import Client", "multiprocessing.connection"),
        ("eval('1')", "eval"),
        ("numbers = map(eval, lines)", "eval"),
        ("run = eval", "eval"),
        ("builtins.eval(text)", "eval"),
        ("import builtins as b\nb.exec(text)", "exec"),
        ("getattr(builtins, 'eval')(text)", "eval"),
        ("__builtins__['eval'](text)", "__builtins__"),
        ("x = [exec(y) for y in z]", "exec"),
        ("compile(text, '', 'exec')", "compile"),
        ("__import__('pickle').loads(data)", "__import__"),
        ("import importlib\nimportlib.import_module('pickle')", "importlib.import_module"),
        ("from importlib import import_module as get", "importlib.import_module"),
        ("import importlib as i\ni.import_module(name)", "importlib.import_module"),
        ("importlib.util.spec_from_file_location('a', path)", "importlib.util"),
        ("np.load(file, allow_pickle=True)", "allow_pickle="),
        ("np.load(file, allow_pickle=flag)", "allow_pickle="),
        ("np.load(file)", "numpy.load without allow_pickle"),
        ("import numpy\nnumpy.load(file, None, True)", "numpy.load without allow_pickle"),
        ("import numpy as n\nn.load(file, **options)", "numpy.load without allow_pickle"),
        ("from numpy import load as get\nget(f)", "numpy.load without allow_pickle"),
        ("arrays = map(np.load, files)", "numpy.load"),
        ("yaml.load(text)", "yaml.load"),
        ("os.system(text)", "os.system"),
        ("from os import system", "os.system"),
        ("from os import system as run\nrun(text)", "os.system"),
        ("from os import *", "os.system"),
        ("import os as o\no.popen(text)", "os.popen"),
        ("subprocess.run(text, shell=True)", "shell="),
        ("subprocess.getoutput(text)", "subprocess.getoutput"),
        ("keras.models.load_model(path, safe_mode=False)", "safe_mode="),
    ],
)
def test_a_planted_one_is_found(source: str, what: str) -> None:
    """The check can fail, whatever name a thing goes by; it says the line."""
    assert (len(source.splitlines()), what) in list(runs_data(source))


@pytest.mark.parametrize(
    "source",
    [
        "json.loads(text)",
        "np.load(file, allow_pickle=False)",
        "model.compile('sgd')",
        "import re\nre.compile('a')",
        "from re import compile\ncompile('a')",
        "from importlib import metadata\nmetadata.version('x')",
        "import os\nos.path.join('a', 'b')",
        "from .pickle import ours",
        "session.eval(x)",
        "subprocess.run(['a'], shell=False)",
    ],
)
def test_what_is_harmless_is_not_found(source: str) -> None:
    """The check does not cry wolf."""
    assert list(runs_data(source)) == []
