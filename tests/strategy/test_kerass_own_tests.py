"""Keras's own tests of distribution strategies, with ours in place of MirroredStrategy.

Keras's wheels of today bring their tests; that of 3.10, the oldest that is supported, does not.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest

from tests.support.jobs import run_alone

pytestmark = pytest.mark.processes

FILES = [
    Path(keras.__file__).parent / "src" / name
    for name in (
        "backend/tensorflow/distribute_test.py",
        "backend/tensorflow/optimizer_distribute_test.py",
        "callbacks/swap_ema_weights_test.py",
        "ops/nn_test.py",
    )
]
FIRST_WITH_TESTS = (3, 15)
ARE_THERE = all(file.exists() for file in FILES)


def test_they_are_where_they_are_looked_for() -> None:
    """In every Keras that is known to bring them; no nightly does."""
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    assert ARE_THERE or version < FIRST_WITH_TESTS or "dev" in keras.__version__


if ARE_THERE:

    def test_they_pass(tmp_path: Path) -> None:
        """All but one that takes an optimizer of Keras 2, which is refused."""
        found = tmp_path / "found.xml"
        chosen = "distribut and not test_single_step1"
        run_alone("keras_tests.py", str(found), "-k", chosen, *map(str, FILES), timeout_s=240)
        cases = ElementTree.parse(found).getroot().findall(".//testcase")
        names = {case.get("name") for case in cases}
        assert {
            "test_ema",
            "test_weight_decay",
            "test_gradient_accumulation",
            "test_correctness_with_fit_and_regularizer",
            "test_swap_ema_weights_with_tf_distribute",
            "test_moments_sync_with_distribution_strategy0",
        } <= names
        assert "test_single_step0" in names  # The same with an optimizer of Keras 3.
        assert not [case for case in cases if case.find("skipped") is not None]
