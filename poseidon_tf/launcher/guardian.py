"""Ends a local job's processes when the launcher itself is killed and can end nobody.

A process of its own, in a session of its own, which holds one end of a pipe; the launcher holds
the other, and no member inherits it. When the pipe closes, whoever is still in the guardian's books
is asked to end, has a few seconds to remove its temporary files, and is killed with its whole
process group. A signal on the parent's death would reach neither what members have started nor
outlive the thread that started them.
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import final

AFTER_SIGTERM_S = 8.0  # With what the kernel takes, the job has ended within 10.
# Standard library only, and little of it: it is up in some hundredths of a second.
_PROGRAM = """
import os, select, signal, sys, time
groups = set()
for line in sys.stdin:
    sign, group = line[0], int(line[1:])
    groups.add(group) if sign == "+" else groups.discard(group)

def tell_all(send, signum):
    for group in groups:
        try:
            send(group, signum)
        except (ProcessLookupError, PermissionError):
            pass  # All of it has ended.

if hasattr(os, "pidfd_open"):  # Elsewhere there is no waiting for another's child.
    tell_all(os.kill, signal.SIGTERM)  # The leaders: what they need to end in order stays.
    deadline_s = time.monotonic() + float(sys.argv[1])
    for group in groups:
        try:
            end = os.pidfd_open(group)
        except ProcessLookupError:
            continue
        select.select([end], [], [], max(0.0, deadline_s - time.monotonic()))
tell_all(os.killpg, signal.SIGKILL)
"""


@final
class Guardian:
    """Watches over process groups while its `with` block runs; waits for its process at the end.

    Args:
      after_sigterm_s: how long their leaders may take to end by themselves.
    """

    def __init__(self, *, after_sigterm_s: float = AFTER_SIGTERM_S) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(after_sigterm_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """End the process group `group` if the launcher ends before `forget`."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended, and its number may soon be another's."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            # Somebody has ended the guardian. Only a launcher that is killed would miss it.
            return

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # As above: there is nobody to tell.
        self._process.wait()
