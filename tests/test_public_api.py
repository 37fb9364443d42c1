"""The public names, and what importing them costs."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import poseidon_tf

LOAD_TENSORFLOW = ("GradientTape", "PoseidonStrategy")
HEAVY = ("tensorflow", "keras", "grpc")


def loaded_after(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter has loaded after `code`."""
    report = f"import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_public_names_are_sorted_and_each_is_somewhere() -> None:
    """`__all__` is in order, without repeats, and every name has a home that defines it."""
    names = poseidon_tf.__all__
    assert names == sorted(set(names))
    for name in names:
        if name not in LOAD_TENSORFLOW:  # Asked for below, in other processes.
            assert getattr(poseidon_tf, name).__name__ == name
            assert getattr(poseidon_tf, name).__doc__
    assert set(names) <= set(dir(poseidon_tf))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    """Attribute access and import both say what was asked for."""
    with pytest.raises(AttributeError, match="'poseidon_tf' has no attribute 'Strategie'"):
        _ = poseidon_tf.Strategie
    with pytest.raises(ImportError, match="Strategie"):
        exec("from poseidon_tf import Strategie")


def test_type_checkers_know_every_public_name() -> None:
    """They run nothing: each is imported, under its own name, where only they look."""
    tree = ast.parse(Path(poseidon_tf.__file__).read_text())
    (unseen,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(unseen.test) == "TYPE_CHECKING"
    homes = {
        name.asname: node.module
        for node in unseen.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.name == name.asname
    }
    assert homes == poseidon_tf._HOMES


def test_every_error_is_in_the_tree_and_public() -> None:
    """Whoever catches PoseidonError misses none, and no error of the tree is kept back."""
    errors = importlib.import_module("poseidon_tf.errors")
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert kinds <= set(poseidon_tf.__all__)
    assert all(issubclass(getattr(errors, kind), errors.PoseidonError) for kind in kinds)
    assert all(kind in (errors.__doc__ or "") for kind in kinds)


@pytest.mark.processes
def test_importing_the_package_loads_nothing_heavy() -> None:
    """Its name, its version, its errors and its plans need neither TensorFlow nor gRPC."""
    light = "import poseidon_tf; dir(poseidon_tf); poseidon_tf.__version__, poseidon_tf.PeerLost"
    assert loaded_after(f"{light}, poseidon_tf.Plan") == set()


@pytest.mark.processes
def test_a_server_loads_no_tensorflow() -> None:
    """The server's process has gRPC and nothing of TensorFlow or Keras."""
    assert loaded_after("import poseidon_tf.launch.server_main") == {"grpc"}


@pytest.mark.processes
def test_a_server_loads_what_it_needs_alone() -> None:
    """A job waits for its servers' imports: who is in the job is told, nothing has failed yet."""
    code = "import sys, poseidon_tf.launch.server_main; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    unneeded = {
        "poseidon_tf.coordinator.roster",
        "poseidon_tf.launch.failure_text",
        "poseidon_tf.launch.sources",
        "poseidon_tf.planner",
        "poseidon_tf.strategy",
        "psutil",
    }
    assert unneeded.isdisjoint(printed.split())


@pytest.mark.processes
def test_the_strategy_and_the_tape_are_what_loads_tensorflow() -> None:
    """Their first use imports TensorFlow and Keras: the check for heavy modules can fail."""
    for name in LOAD_TENSORFLOW:
        code = f"from poseidon_tf import {name}; assert {name}.__doc__"
        assert loaded_after(code) == set(HEAVY)
