"""Starts threads that no signal goes to."""

from __future__ import annotations

import signal
import threading


def start(thread: threading.Thread) -> None:
    """Start it with all signals blocked.

    Python runs a signal's handler in the main thread, when that has been woken. A signal that
    comes while the process is stopped, as after Ctrl-Z, may go to any thread that takes it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
