"""Says how far long work has come: on a terminal in a line that changes, else in one at its end.

Rank 0 alone shows anything; whoever calls this sees to that.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_PERIOD_S = 0.25
_CLEAR = "\r\x1b[K"  # To the begin of the line, and nothing on it.


@contextlib.contextmanager
def showing(
    now: Callable[[], str],
    end: Callable[[], str],
    *,
    least_s: float = 0.0,
    stream: TextIO | None = None,
) -> Iterator[None]:
    """Within: something takes long. Where it fails, nothing is said at its end.

    Args:
      now: how far it has come; called from another thread.
      end: what to say once it is done; the seconds that it took come behind that.
      least_s: work that is done before is not worth a line.
      stream: standard error if None.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # A process may have none.
        yield
        return
    over, began_s = threading.Event(), time.monotonic()

    def show(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # The terminal has hung up, or it is closed.
            stream.write(text)
            stream.flush()

    def draw() -> None:
        while not over.wait(_PERIOD_S):
            show(f"{_CLEAR}poseidon_tf: {now()}")

    thread = threading.Thread(target=draw, name="poseidon-progress", daemon=True)
    if stream.isatty():
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
            show(_CLEAR)
    lasted_s = time.monotonic() - began_s
    if lasted_s >= least_s:
        show(f"poseidon_tf: {end()}, after {lasted_s:.1f} s\n")
