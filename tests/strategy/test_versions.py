"""Versions that cannot work are refused when the strategy is imported, in one sentence."""

from __future__ import annotations

import runpy
import sys

import google.protobuf
import grpc
import keras
import pytest
import tensorflow as tf
from packaging.version import Version

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.versions import refusal
from tests import conftest
from tests.support.jobs import run_alone


@pytest.mark.parametrize(
    "tensorflow, keras_version",
    [
        ("2.16.0", "3.10.0"),  # The oldest.
        ("2.16.0-rc1", "3.10.0"),
        ("2.21.0", "3.15.1"),
        ("2.22.0-dev20261101", "3.16.0.dev2026110103"),
        ("2.100.0", "3.100.2"),  # A number, not text: 100 is more than 16.
        ("3.0.0", "4.0.0"),  # Only a missing name would speak against it.
    ],
)
def test_the_range_has_a_lower_end_only(tensorflow: str, keras_version: str) -> None:
    """From 2.16 with 3.10 on nothing is refused for its number."""
    assert refusal(tensorflow=tensorflow, keras=keras_version, backend="tensorflow") is None


@pytest.mark.parametrize(
    "tensorflow, keras_version, backend, says",
    [
        ("2.15.1", "3.10.0", "tensorflow", "needs TensorFlow 2.16 or newer, got 2.15.1; install"),
        ("2.9.0", "2.9.0", "tensorflow", "needs TensorFlow 2.16 or newer, got 2.9.0; install"),
        ("2.16.2", "3.9.2", "tensorflow", "needs Keras 3.10 or newer, got 3.9.2: older ones"),
        ("2.21.0", "2.15.0", "tensorflow", "needs Keras 3.10 or newer, got 2.15.0: older ones"),
        (
            "2.21.0",
            "3.15.1",
            "jax",
            "needs Keras to compute with TensorFlow, got the backend 'jax'",
        ),
    ],
)
def test_what_cannot_work_is_named_with_the_version_that_was_found(
    tensorflow: str, keras_version: str, backend: str, says: str
) -> None:
    """The sentence says what is needed, what was got and what to do, on one line."""
    sentence = refusal(tensorflow=tensorflow, keras=keras_version, backend=backend)
    assert sentence is not None and sentence.startswith(f"poseidon_tf {says}")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "module, version, says",
    [
        (tf, "2.15.1", "needs TensorFlow 2.16 or newer, got 2.15.1"),
        (keras, "3.9.0", "needs Keras 3.10 or newer, got 3.9.0"),
    ],
)
def test_the_import_fails_before_any_private_name_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, module: object, version: str, says: str
) -> None:
    """An old version's missing name would hide that it is old."""
    monkeypatch.setattr(module, "__version__", version)
    monkeypatch.delattr(tf_internals.LossScaleOptimizer, "_tf_apply")
    with pytest.raises(ConfigError, match=says):
        runpy.run_path(tf_internals.__file__)


def test_a_newer_version_without_a_private_name_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sentence names both versions and what is missing."""
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    monkeypatch.delattr(tf_internals.LossScaleOptimizer, "_tf_apply")
    with pytest.raises(ConfigError, match=r"with Keras 3\.99\.0 lacks .*_tf_apply"):
        runpy.run_path(tf_internals.__file__)


@pytest.mark.parametrize("name", ["TensorFlowTrainer", "TFOptimizer"])
def test_a_class_that_keras_calls_otherwise_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By what it does for Keras's public classes: its name has changed between versions."""
    now = getattr(tf_internals, name)
    monkeypatch.delattr(sys.modules[now.__module__], now.__name__)
    monkeypatch.setattr(sys.modules[now.__module__], "Renamed", now, raising=False)
    assert runpy.run_path(tf_internals.__file__)[name] is now


def test_a_newer_version_without_such_a_class_is_refused_by_what_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no name to say; the sentence lists the classes that were looked at."""
    monkeypatch.delattr(tf_internals.TFEpochIterator, "catch_stop_iteration")
    lacks = r"lacks .*none of .*TFEpochIterator.* has 'catch_stop_iteration'"
    with pytest.raises(ConfigError, match=lacks):
        runpy.run_path(tf_internals.__file__)


def test_a_newer_version_that_has_all_names_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said about versions that nobody has tried yet."""
    monkeypatch.setattr(tf, "__version__", "2.99.0")
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    assert "MirroredExtended" in runpy.run_path(tf_internals.__file__)


@pytest.mark.processes
def test_a_script_that_asks_for_a_strategy_gets_one_sentence() -> None:
    """From `poseidon_tf.PoseidonStrategy()`, with no other error behind it; the right versions
    give it one."""
    found = run_alone("old_versions.py", is_fresh=True)
    (tensorflow,), (old_keras,) = found["tensorflow"], found["keras"]
    assert tensorflow == "poseidon_tf.errors.ConfigError: " + str(
        refusal(tensorflow="2.15.1", keras="3.10.0", backend="tensorflow")
    )
    assert old_keras == "poseidon_tf.errors.ConfigError: " + str(
        refusal(tensorflow="2.16.0", keras="3.9.2", backend="tensorflow")
    )
    assert found["nothing-built"]
    assert found["now"] == ["accepted"]


def test_a_run_of_the_tests_says_which_versions_it_had() -> None:
    """In the header, which `make test-versions` prints for both ends of the range."""
    header = conftest.pytest_report_header()
    for name, version in (
        ("tensorflow", tf.__version__),
        ("keras", keras.__version__),
        ("grpcio", grpc.__version__),
        ("protobuf", google.protobuf.__version__),
    ):
        assert f"{name} {Version(version)}" in header  # A nightly writes "-dev" for ".dev".
