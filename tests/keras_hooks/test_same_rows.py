"""Arrays that differ between workers are refused; what rounding makes of them is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.keras_hooks.same_rows import refuse_other_rows, rows_of

pytestmark = pytest.mark.tensorflow
X = np.random.default_rng(1).normal(size=(40, 5)).astype("float32")
Y = np.arange(40) % 10


def compare(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """As workers do, to which the others' come as JSON."""
    refuse_other_rows([json.loads(json.dumps(rows_of(each))) for each in (mine, theirs)])


def shuffled(array: Any) -> Any:
    return array[np.random.default_rng(2).permutation(len(array))]


@pytest.mark.parametrize(
    "name, change",
    [
        ("x", lambda mine: mine | {"x": shuffled(X)}),
        ("y", lambda mine: mine | {"y": shuffled(Y)}),
        ("x", lambda mine: mine | {"x": X + 1}),
        ("validation_data", lambda mine: mine | {"validation_data": (X[:4], Y[1:5])}),
    ],
)
def test_other_rows_are_refused(name: str, change: Callable[[Any], Any]) -> None:
    """The error says of what, on which worker, and what to do."""
    mine = {"x": X, "y": Y, "validation_data": (X[:4], Y[:4])}
    with pytest.raises(ConfigError, match=f"other rows of {name} on rank 0 and on rank 1.*seed"):
        compare(mine, change(mine))


def test_other_words_are_refused() -> None:
    """Text has no rounding."""
    with pytest.raises(ConfigError, match="other rows of x"):
        compare({"x": np.array(["a", "b"])}, {"x": np.array(["a", "c"])})


@pytest.mark.parametrize(
    "theirs",
    [
        {"x": X * np.float32(1 + 1e-6), "y": Y},
        {"x": X[:39], "y": Y[:39]},
        {"x": iter([X]), "y": None},
        {},
    ],
    ids=["rounding", "other-shape", "generator", "nothing"],
)
def test_what_is_not_for_it_to_say_is_left_to_others(theirs: dict[str, Any]) -> None:
    """Rounding is no difference; datasets of other lengths and kinds are refused as datasets."""
    compare({"x": X, "y": Y}, theirs)


def test_what_is_not_a_number_is_the_same_everywhere() -> None:
    """Missing values do not make rows differ."""
    x = X.copy()
    x[0, 0] = np.nan
    compare({"x": x}, {"x": x.copy()})
