"""Names a value that the program reduces by itself after the place in the program that asks.

All workers run the same program, so the same place has the same name everywhere; a graph that is
traced again meets its places in the same order, so it finds the same names. What has called the
function that is traced has no part in the name: workers may trace it at different calls.
"""

from __future__ import annotations

import collections
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, final

_OWN = str(Path(__file__).parents[2])
_TRACING = f"{os.sep}tensorflow{os.sep}python{os.sep}framework{os.sep}func_graph.py"
_FOREIGN = (f"{os.sep}tensorflow{os.sep}", f"{os.sep}keras{os.sep}", f"{os.sep}tf_keras{os.sep}")


@final
class CallSites:
    """Counts, per graph, how often each place has asked."""

    def __init__(self) -> None:
        self._counts: weakref.WeakKeyDictionary[Any, collections.Counter[tuple[str, int]]] = (
            weakref.WeakKeyDictionary()
        )
        self._branches: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def name(self, graph: Any | None, replica: int = 0) -> str:
        """The name of the calling place, the same for every replica that comes by.

        Args:
          graph: the one being traced, None in eager mode.
        """
        place = _calling_place(graph)
        if graph is None:
            return f"eager/{place}"
        counts = self._counts.setdefault(graph, collections.Counter())
        counts[place, replica] += 1
        return f"{self._path_of(graph, replica)}{place}/{counts[place, replica]}"

    def _path_of(self, graph: Any, replica: int) -> str:
        """The branches and loops around `graph`: each has its own graph, and its own counts."""
        parts: list[str] = []
        while (outer := getattr(graph, "outer_graph", None)) is not None:
            if type(graph).__name__ != "FuncGraph":
                parts.append(self._branch(graph, outer, replica))
            graph = outer
        return "".join(f"{part}/" for part in reversed(parts))

    def _branch(self, graph: Any, outer: Any, replica: int) -> str:
        """What a branch does, and the how manieth of these in `outer` it is.

        The graph's own name depends on the replica that is traced and on what else is in `outer`.
        """
        if graph not in self._branches:
            kind = str(graph.name).rstrip("0123456789_").rpartition("_")[2]
            counts = self._counts.setdefault(outer, collections.Counter())
            counts[kind, replica] += 1
            self._branches[graph] = f"{kind}-{counts[kind, replica]}"
        return self._branches[graph]


def _calling_place(graph: Any | None) -> str:
    frame = sys._getframe(1)
    generated, path = "", ""
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if graph is not None and path.endswith(_TRACING):
            return generated or str(graph.name).rstrip("0123456789_")
        # Code that AutoGraph generated has a path of its own, which differs between processes.
        is_generated = "__autograph_generated_file" in path or path.startswith("<")
        is_foreign = path == threading.__file__ or any(f in path for f in _FOREIGN)
        if not (path.startswith(_OWN) or is_foreign or is_generated):
            return f"{os.path.basename(path)}:{frame.f_lineno}"
        if is_generated and not generated:
            generated = frame.f_code.co_name
        frame = frame.f_back
    if generated or path == threading.__file__:
        return generated or "replica"  # All that a replica's thread may know of the program.
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
