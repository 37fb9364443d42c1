"""SIGUSR2 has a process write its last events, also while its main thread is inside of a step.

Python runs a signal's handler in the main thread, between two of its own instructions; a step of
TensorFlow is one. So a thread of ours is woken as well, by the byte that Python writes for each
signal to a descriptor. Nothing is changed where the script has a handler of its own, one that it
sets later has the signal to itself, and a program that takes the descriptor later, as asyncio does,
keeps it: then the handler does it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import types
from typing import final

from poseidon_tf.trace import Recorder

_log = logging.getLogger("poseidon_tf")


@final
class FlightSignal:
    """From now until `close`, SIGUSR2 has `recorder` write its events.

    Only the main thread may set handlers; elsewhere this does nothing.

    Args:
      name: of this process, for the log.
    """

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder, self._name = recorder, name
        self._thread: threading.Thread | None = None
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL:
            return  # The script's own.
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        before = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)  # Somebody else's.
        signal.signal(signal.SIGUSR2, self._handle)
        self._thread = threading.Thread(target=self._run, name="poseidon-sigusr2", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """SIGUSR2 does again what it did before, where that can be changed here."""
        if self._thread is None:
            return
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGUSR2) == self._handle:
                signal.signal(signal.SIGUSR2, signal.SIG_DFL)
            if self._is_woken():
                signal.set_wakeup_fd(-1)
        # A byte for a signal may still come after this; then nobody reads it.
        with contextlib.suppress(OSError):
            self._woken.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._thread = None
        if threading.current_thread() is threading.main_thread():
            self._wakes.close()
            self._woken.close()

    def _is_woken(self) -> bool:
        """Whether signals wake the thread; the main thread alone may ask."""
        current = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(current, warn_on_full_buffer=False)
        return current == self._wakes.fileno()

    def _handle(self, signum: int, frame: types.FrameType | None) -> None:
        if not self._is_woken():
            # On a thread of its own: the main thread may hold the recorder's lock just now.
            threading.Thread(target=self._write, name="poseidon-flight", daemon=True).start()

    def _run(self) -> None:
        while signals := self._woken.recv(64):
            # The byte comes whoever's handler it is for by now.
            if signal.SIGUSR2 in signals and signal.getsignal(signal.SIGUSR2) == self._handle:
                self._write()

    def _write(self) -> None:
        path = self._recorder.dump("SIGUSR2")
        where = f"are in {path}" if path is not None else "are none"
        _log.warning("%s: the last events %s (SIGUSR2)", self._name, where)
