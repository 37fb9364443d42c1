"""Finds private classes by what they do for public ones, whatever a version calls them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def owner(method: str, classes: Iterable[Any]) -> Any:
    """The first of these classes that defines the method itself.

    Raises:
      AttributeError: none does.
    """
    tried = list(classes)
    for each in tried:
        if method in vars(each):
            return each
    raise AttributeError(f"none of {', '.join(each.__name__ for each in tried)} has {method!r}")


def classes_beside(neighbour: Any) -> list[Any]:
    """The classes that the file of this class defines."""
    names = vars(sys.modules[neighbour.__module__]).values()
    return [v for v in names if isinstance(v, type) and v.__module__ == neighbour.__module__]
