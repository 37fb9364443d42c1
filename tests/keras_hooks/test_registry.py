"""What is put around Keras's methods stands in one list, and can be taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from poseidon_tf.keras_hooks import registry
from poseidon_tf.keras_hooks.registry import HOOKS
from poseidon_tf.strategy.replacements import replace_method


def methods() -> dict[tuple[Any, str], Any]:
    return {(hook.owner, hook.method): getattr(hook.owner, hook.method) for hook in HOOKS}


@pytest.fixture
def originals() -> Iterator[dict[tuple[Any, str], Any]]:
    """The methods without hooks; puts back afterwards what was there before."""
    are_in_place = any(hasattr(method, "_poseidon_tf") for method in methods().values())
    registry.uninstall()
    yield methods()
    (registry.install if are_in_place else registry.uninstall)()


def test_each_method_is_replaced_once_and_says_why(originals: dict[tuple[Any, str], Any]) -> None:
    """By the hook that the list names; a second installation changes nothing."""
    assert len(originals) == len(HOOKS)
    registry.install()
    replaced = methods()
    for hook in HOOKS:
        assert replaced[hook.owner, hook.method]._poseidon_tf is hook.wrap
        assert replaced[hook.owner, hook.method].__wrapped__ is originals[hook.owner, hook.method]
        assert len(hook.why) > 10
    registry.install()
    assert methods() == replaced


def test_taken_out_everything_is_as_it_was(originals: dict[tuple[Any, str], Any]) -> None:
    """Also what a class has from another one; twice is as good as once."""
    own = {place: place[1] in vars(place[0]) for place in originals}
    registry.install()
    registry.uninstall()
    registry.uninstall()
    assert methods() == originals
    assert own == {place: place[1] in vars(place[0]) for place in originals}


def test_two_hooks_on_one_method_are_found(originals: dict[tuple[Any, str], Any]) -> None:
    """The second would silently take the place of the first."""
    registry.install()
    hook = HOOKS[0]
    with pytest.raises(AssertionError, match="has two hooks"):
        replace_method(hook.owner, hook.method, lambda original: original)
