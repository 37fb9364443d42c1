"""Architecture as a table: who may import whom, which libraries, and who reads the environment."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "poseidon_tf"
ANYONE = {"errors", "trace"}
DATA = {"wire"}
TRANSPORT = DATA | {"transport"}
PROTOCOLS = TRANSPORT | {"kv", "sfb", "coordinator"}  # Siblings: never each other.
SESSION = PROTOCOLS | {"planner", "session"}
STRATEGY = SESSION | {"strategy"}
KERAS_HOOKS = STRATEGY | {"keras_hooks"}
LAUNCH = KERAS_HOOKS | {"launch"}

# What a package may import of ours, besides itself and ANYONE.
MAY_IMPORT = {
    "__init__": {
        "launch",
        "planner",
        "session",
        "strategy",
        "transport",
    },  # For type checkers; at run time by name, lazily.
    "__main__": {"launcher"},
    "errors": set(),
    "trace": set(),
    "planner": set(),
    "wire": set(),
    "transport": DATA,
    "kv": TRANSPORT,
    "sfb": TRANSPORT,
    "coordinator": TRANSPORT,
    "session": PROTOCOLS | {"planner"},
    "strategy": STRATEGY,
    "keras_hooks": KERAS_HOOKS,
    "launch": LAUNCH,
    "launcher": LAUNCH,
}
# What of others', besides the standard library. A file's own line adds to its package's.
LIBRARIES = {
    "planner": {"tabulate"},
    "wire": {"numpy", "google"},
    "transport/server.py": {"grpc"},
    "transport/carriers.py": {"grpc"},
    "transport/channel.py": {"grpc"},
    "transport/lanes.py": {"numpy"},
    "transport/admission.py": {"grpc"},
    "transport/credentials.py": {"grpc"},
    "transport/grpc_endings.py": {"grpc"},
    "transport/readiness.py": {"grpc"},
    "transport/shared_memory.py": {"numpy"},
    "transport/listening.py": {"psutil"},
    "kv": {"numpy", "google"},
    "sfb": {"numpy", "google"},
    "coordinator": {"numpy", "google"},
    "session": {"numpy"},
    "strategy": {"numpy", "tensorflow", "keras"},
    "keras_hooks": {"numpy", "tensorflow", "keras"},
    "keras_hooks/place.py": {"h5py"},
    "launcher/cli.py": {"click"},
    "launcher/plan_command.py": {"click"},
    "launcher/probe_command.py": {"click"},
    "launcher/probe_view.py": {"tabulate"},
    "launcher/status_command.py": {"click", "rich"},
    "launcher/status_view.py": {"rich"},
    "launcher/option_values.py": {"click"},
    "launcher/curve_plot.py": {"matplotlib"},
    "launch/poseidon_strategy.py": {"tensorflow", "keras"},
    "launch/cluster_env.py": {"psutil"},
    "launch/metrics_server.py": {"prometheus_client"},
    "launch/metric_families.py": {"prometheus_client"},
    "launch/sources/by_mpi.py": {"mpi4py"},
}
# Names that promise nothing: TensorFlow and Keras may change them in any release.
INTERNALS = ("tensorflow.python", "keras.src")
READS_INTERNALS = "strategy/tf_internals.py"
# Private attributes of others are read there; a class that derives from TensorFlow's has its own.
READS_PRIVATE = {READS_INTERNALS, "strategy/fit_internals.py", "strategy/extended.py"}
PROMISED = {"_replace", "_asdict", "_fields", "_getframe", "_exit"}  # Private by their names alone.
READS_ENVIRONMENT = "launch/cluster_env.py"
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
SAY_NOTHING = {"utils", "util", "helpers", "common", "misc", "manager"}
MAX_LINES = 400


def imports(tree: ast.AST, file: str) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in the file, by its full name."""
    here = ["poseidon_tf", *Path(file).parent.parts]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = here[: len(here) - level + 1] if level else []
                prefix = ".".join([*base, *([module] if module else [])])
                # What is imported may itself be a module: `from poseidon_tf import kv`.
                yield from ((f"{prefix}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name, node.lineno


def violations(file: str, source: str) -> list[str]:
    """What this file, named as seen from the package, does that it must not."""
    tree = _tree(source)
    found = []
    if not ast.get_docstring(tree):
        found.append(f"{file}: no docstring")
    if Path(file).stem in SAY_NOTHING:
        found.append(f"{file}: a name that says nothing")
    if (num_lines := len(source.splitlines())) > MAX_LINES:
        found.append(f"{file}: {num_lines} lines")
    package = Path(file).parts[0].removesuffix(".py")
    ours = MAY_IMPORT.get(package, set()) | ANYONE | {package}
    others = LIBRARIES.get(package, set()) | LIBRARIES.get(file, set())
    for name, line in imports(tree, file):
        top, *rest = name.split(".")
        if top == "poseidon_tf":
            if rest and rest[0] not in ours and rest[0] != "__version__":
                found.append(f"{file}:{line}: {package} imports {rest[0]}")
        elif top not in sys.stdlib_module_names and top not in others:
            found.append(f"{file}:{line}: {package} imports {top}")
        if name.startswith(INTERNALS) and file != READS_INTERNALS:
            found.append(f"{file}:{line}: imports {name}")
    if file not in READS_PRIVATE:
        found += [f"{file}:{line}: uses {name}" for name, line in foreign_privates(tree)]
    if file != READS_ENVIRONMENT:
        found += [f"{file}:{line}: reads the environment" for line in environment_reads(tree)]
    return found


def imported_files(file: str, files: dict[str, str]) -> set[str]:
    """Those of `files` that this one imports, anywhere in it."""
    homes = {f"poseidon_tf.{each[:-3].replace('/', '.')}": each for each in files}
    names = [name for name, _ in imports(_tree(files[file]), file)]
    # `from .specs import first_difference` names something in a module.
    found = {homes.get(name) or homes.get(name.rpartition(".")[0]) for name in names}
    return {home for home in found if home is not None}


def circles(files: dict[str, str]) -> list[list[str]]:
    """Groups of files that import one another, directly or through others, anywhere in them."""
    reached = {file: imported_files(file, files) - {file} for file in files}
    for middle in files:
        for near in reached.values():
            if middle in near:
                near |= reached[middle]
    found = {
        frozenset({file, *(far for far in reached[file] if file in reached[far])}) for file in files
    }
    return sorted(sorted(group) for group in found if len(group) > 1)


def foreign_privates(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Attributes with an underscore that nothing in this file defines."""
    defined = set(PROMISED)
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()) if name not in defined:
                if name.startswith("_") and not name.startswith("__"):
                    yield name, node.lineno


def environment_reads(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in ENVIRONMENT:
                yield node.lineno
            case ast.ImportFrom(module="os", names=names):
                yield from (node.lineno for alias in names if alias.name in ENVIRONMENT)


@functools.cache
def _tree(source: str) -> ast.Module:
    return ast.parse(source)


@functools.cache
def sources() -> dict[str, str]:
    """Every module that somebody wrote; protoc's are as they are."""
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text()
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    }


def test_every_package_has_its_line_in_the_table() -> None:
    """A new package has to say where it stands."""
    assert {Path(file).parts[0].removesuffix(".py") for file in sources()} == set(MAY_IMPORT)
    assert {file for file in LIBRARIES if file.endswith(".py")} <= set(sources())


@pytest.mark.parametrize("file", sources())
def test_a_module_keeps_to_its_layer(file: str) -> None:
    """It imports downwards, only its own libraries, and is short, documented and well named."""
    assert violations(file, sources()[file]) == []


def test_the_table_itself_points_down_only() -> None:
    """No two packages may import each other, directly or through others."""
    below = {name: set(allowed) - {name} for name, allowed in MAY_IMPORT.items()}
    for _ in MAY_IMPORT:
        for reached in below.values():
            reached |= {far for near in reached for far in below.get(near, set())}
    assert not [name for name, reached in below.items() if name in reached]


@pytest.mark.parametrize(
    "file, line, what",
    [
        ("wire/frames.py", "from poseidon_tf.transport import base", "wire imports transport"),
        ("kv/store.py", "import poseidon_tf.sfb.factors", "kv imports sfb"),
        ("kv/store.py", "from poseidon_tf import session", "kv imports session"),
        ("kv/store.py", "from ..session.session import Session", "kv imports session"),
        ("kv/store.py", "from .. import strategy", "kv imports strategy"),
        ("planner/plan.py", "from ..wire.dtypes import Array", "planner imports wire"),
        ("planner/plan.py", "import numpy", "planner imports numpy"),
        (
            "session/session.py",
            "def f():\n    import tensorflow as tf",
            "session imports tensorflow",
        ),
        (
            "session/session.py",
            "import importlib\nimportlib.import_module('keras')",
            "imports keras",
        ),
        ("transport/base.py", "from grpc import Channel", "transport imports grpc"),
        ("launcher/local.py", "import tensorflow", "launcher imports tensorflow"),
        ("launch/join.py", "from poseidon_tf.launcher import cli", "launch imports launcher"),
        (
            "strategy/graph/route.py",
            "from tensorflow.python.eager import context",
            "tensorflow.python",
        ),
        ("strategy/graph/route.py", "from keras import src", "imports keras.src"),
        ("keras_hooks/data.py", "def f(model):\n    return model._state", "uses _state"),
        ("kv/store.py", "import os\nos._exists", "uses _exists"),
        ("trace.py", "from poseidon_tf.wire import frames", "trace imports wire"),
        ("session/session.py", "import os\nos.environ['A']", "reads the environment"),
        ("session/session.py", "from os import getenv", "reads the environment"),
        ("session/utils.py", "", "says nothing"),
        ("session/session.py", "x = 1\n" * (MAX_LINES - 1), "401 lines"),
    ],
)
def test_a_planted_violation_is_found(file: str, line: str, what: str) -> None:
    """The check can fail: exactly what was planted is reported."""
    found = violations(file, f'"""A module."""\n{line}\n')
    assert len(found) == 1 and what in found[0]


def test_no_two_files_import_each_other() -> None:
    """Not within a package either, nor within a function."""
    assert circles(sources()) == []


@pytest.mark.parametrize(
    "files",
    [
        {"kv/a.py": "from poseidon_tf.kv import b", "kv/b.py": "def f():\n    from .a import x"},
        {
            "kv/a.py": "import poseidon_tf.kv.b",
            "kv/b.py": "from poseidon_tf.kv.c import C",
            "kv/c.py": "from . import a",
        },
    ],
)
def test_a_planted_circle_is_found(files: dict[str, str]) -> None:
    """Whichever way the imports are written; who is not in it is not named."""
    assert circles({**files, "kv/d.py": "from . import a"}) == [sorted(files)]


def test_a_module_without_a_docstring_is_found() -> None:
    """A comment is none."""
    assert violations("kv/store.py", "# What it does.\n") == ["kv/store.py: no docstring"]


@pytest.mark.parametrize(
    "file, line",
    [
        ("transport/channel.py", "import grpc"),
        ("kv/client.py", "from poseidon_tf.wire.frame_pb2 import Part"),
        ("planner/plan.py", "from ..errors import PlanError\nfrom . import cost"),
        ("launch/cluster_env.py", "import os\nos.environ['A']"),
        ("kv/store.py", "class A:\n    def f(self):\n        self._a = 1\n        return self._a"),
        ("kv/store.py", "def f(pair):\n    return pair._replace(a=1)"),
        ("strategy/tf_internals.py", "from keras.src.models import Functional"),
        (
            "session/session.py",
            "from poseidon_tf.trace import Recorder\nenviron = {}\nenviron['A']",
        ),
    ],
)
def test_what_is_allowed_is_not_found(file: str, line: str) -> None:
    """The check does not cry wolf."""
    assert violations(file, f'"""A module."""\n{line}\n') == []
