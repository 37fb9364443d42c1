"""What SIGTERM does to a worker or a server of a job: it ends in order where it can.

Only the main thread may set handlers; elsewhere, where SIGTERM is ignored, or where a handler
that is not Python's is in place, nothing is changed.
"""

from __future__ import annotations

import os
import signal
import threading
import types
from collections.abc import Callable


def on_first_sigterm(notice: Callable[[], bool], farewell: Callable[[], None]) -> None:
    """Have `notice` called, in the main thread, when SIGTERM comes for the first time.

    What was in place before is in place again from then on, so that a second SIGTERM has its
    effect. A handler that the user's script had set is called the first time too. Without one
    the process ends as if nothing had been in place, once `farewell` has told the others.

    Args:
      notice: returns True if it has seen to it that the process will end.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is None or before == signal.SIG_IGN:
        return

    def handle(signum: int, frame: types.FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        will_end = notice()
        if callable(before):
            before(signum, frame)
        elif not will_end:
            _end_after(farewell)

    signal.signal(signal.SIGTERM, handle)


def _end_after(farewell: Callable[[], None]) -> None:
    """End this process as SIGTERM does, after `farewell`.

    On a thread of its own: the main thread, in which a signal's handler runs, may hold a lock that
    telling them needs.
    """

    def end() -> None:
        try:
            farewell()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, name="poseidon-sigterm", daemon=True).start()
