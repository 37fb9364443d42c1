"""Puts something of this project in the place of a method of TensorFlow or Keras, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""From the original to what stands for it."""


def replace_method(owner: Any, name: str, wrap: Wrap) -> None:
    """Let `wrap(original)` stand for a method of a class, or a function of a module, once."""
    original = getattr(owner, name)
    if (before := getattr(original, "_poseidon_tf", None)) is not None:
        assert before is wrap, f"{owner.__name__}.{name} has two hooks: {before}, {wrap}"
        return
    replacement = functools.wraps(original)(wrap(original))
    replacement._poseidon_tf = wrap  # type: ignore[attr-defined]
    setattr(owner, name, replacement)


def restore_method(owner: Any, name: str) -> None:
    """Put the original back; changes nothing where nothing stands for it."""
    replacement = getattr(owner, name)
    if not hasattr(replacement, "_poseidon_tf"):
        return
    delattr(owner, name)
    if getattr(owner, name, None) is not replacement.__wrapped__:  # Inherited ones come back.
        setattr(owner, name, replacement.__wrapped__)
