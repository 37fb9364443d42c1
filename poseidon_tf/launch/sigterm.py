"""What SIGTERM does to a worker or a server of a job: it ends in order where it can.

Only the main thread may set handlers; elsewhere, where SIGTERM is ignored, or where a handler
that is not Python's is in place, nothing is changed.
"""

from __future__ import annotations

import os
import signal
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, final


def on_first_sigterm(notice: Callable[[], bool], farewell: Callable[[], None]) -> None:
    """Have `notice` called, in the main thread, when SIGTERM comes for the first time.

    What was in place before is in place again from then on, so that a second SIGTERM has its
    effect. A handler that the user's script had set is called the first time too. Without one
    the process ends as if nothing had been in place, once `farewell` has told the others.
    A process that joins again has all its `notice`s called, and all `farewell`s.

    Args:
      notice: returns True if it has seen to it that the process will end.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is None or before == signal.SIG_IGN:
        return
    if not isinstance(before, _Handler):
        before = _Handler(before)
        signal.signal(signal.SIGTERM, before)
    before.members.append((notice, farewell))


@final
class _Handler:
    """What SIGTERM does once; `before` is what it does from then on."""

    def __init__(self, before: Any) -> None:
        self.members: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._before = before

    def __call__(self, signum: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGTERM, self._before)
        will_end = [notice() for notice, _ in self.members]
        if callable(self._before):
            self._before(signum, frame)
        elif not any(will_end):
            _end_after([farewell for _, farewell in self.members])


def _end_after(farewells: Sequence[Callable[[], None]]) -> None:
    """End this process as SIGTERM does, after `farewells`.

    On a thread of its own: the main thread, in which a signal's handler runs, may hold a lock that
    telling them needs.
    """

    def end() -> None:
        try:
            for farewell in farewells:
                farewell()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, name="poseidon-sigterm", daemon=True).start()
