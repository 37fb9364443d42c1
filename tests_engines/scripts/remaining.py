"""What is left of a fit that has ended, within the session of an engine that goes on."""

import os
import threading
import time

import psutil

_END_S = 30.0


def servers() -> int:
    """The servers of workers that still run 30 s later, of those that this session has started."""
    deadline_s = time.monotonic() + _END_S
    while True:
        running = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "poseidon_tf.launch.server_main" in (process.info["cmdline"] or [])
            and _is_of_this_session(process)
        ]
        if not running or time.monotonic() > deadline_s:
            return len(running)
        psutil.wait_procs(running, timeout=1.0)


def threads() -> list[str]:
    """Those of ours in this process, by their names."""
    return [each.name for each in threading.enumerate() if each.name.startswith("poseidon")]


def _is_of_this_session(process: psutil.Process) -> bool:
    try:
        return bool(process.environ().get("FOUND") == os.environ["FOUND"])
    except psutil.Error:  # It has ended meanwhile.
        return False
