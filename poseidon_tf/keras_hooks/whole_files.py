"""Files that Keras saves appear under their name when they are whole, and never before.

Keras writes them in place: whoever reads meanwhile, or after a kill in the middle, has half of one.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from typing import Any

# What Keras saves as one file.
_SUFFIXES = (".keras", ".h5")
_add: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "_add", default=None
)


@contextlib.contextmanager
def adding(add: Callable[[str], None]) -> Iterator[None]:
    """Within: `add` is called with the path of each saved file before that appears."""
    token = _add.set(add)
    try:
        yield
    finally:
        _add.reset(token)


def save_whole(
    save: Callable[..., Any], filepath: Any, *args: Any, part: str, **kwargs: Any
) -> Any:
    """Call `save(filepath, ...)` with another name beside it, which is then renamed.

    Whatever is not one local file, or asks the user before it overwrites one, is saved as it is.

    Args:
      part: a name for this process's unfinished files, among all that may save this one.
    """
    path = os.fspath(filepath) if isinstance(filepath, (str, os.PathLike)) else ""
    is_one_file = path.endswith(_SUFFIXES) and "://" not in path and not _is_more(args, kwargs)
    overwrites = args[0] if args else kwargs.get("overwrite", True)
    if not is_one_file or (not overwrites and os.path.exists(path)) or os.path.isdir(path):
        return save(filepath, *args, **kwargs)
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".{part}-{name}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)  # Of a process that was killed.
    try:
        result = save(unfinished, *args, **kwargs)
        if add := _add.get():
            add(unfinished)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
    return result


def _is_more(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these arguments of Keras ask for several files."""
    has_more = len(args) > 1 and args[1] is not None  # zipped, or max_shard_size.
    return has_more or kwargs.get("max_shard_size") is not None or kwargs.get("zipped") is False
