"""One process of a local job: how it is started, signalled and waited for."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias, final

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.reports import ReportFile
from poseidon_tf.launcher import threads


@final
class LocalMember:
    """One process, leader of its own group, and the thread that waits for its end.

    Attributes:
      killed_by: the number of the signal that has ended it; 0 as long as none has.
    """

    def __init__(
        self,
        role: str,
        index: int,
        argv: Sequence[str],
        environ: Mapping[str, str],
        events: Events,
    ) -> None:
        self.is_worker, self.label = role == "worker", f"{role} {index}"
        self.report, self.killed_by = ReportFile(), 0
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                argv,
                env={**environ, **self.report.environ},
                stdin=null,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
                pass_fds=(self.report.descriptor,),
            )
        except OSError as error:
            self.report.close()
            raise ConfigError(f"cannot start {self.label}, {list(argv)}: {error}") from error
        self.waiter = threading.Thread(target=lambda: events.put((self, self._wait_exit_code())))
        threads.start(self.waiter)

    def _wait_exit_code(self) -> int:
        if hasattr(os, "waitid"):
            # Left unreaped, so that the group's number cannot pass to a stranger meanwhile.
            end = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            assert end is not None
            code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        else:
            code = self.process.wait()
        self.killed_by = max(0, -code)
        return code if code >= 0 else 128 - code

    def signal_group(self, signum: signal.Signals) -> None:
        """Signal the process and all that it has started in its group."""
        with suppress(ProcessLookupError, PermissionError):  # All of the group has ended.
            os.killpg(self.process.pid, signum)

    def signal_leader(self, signum: signal.Signals) -> None:
        """Signal the process alone, as a scheduler does: what it needs to end in order stays."""
        with suppress(ProcessLookupError, PermissionError):  # It has ended.
            os.kill(self.process.pid, signum)


Event: TypeAlias = tuple[LocalMember, int] | signal.Signals
"""A member's end and its code, or a wish to stop."""
Events: TypeAlias = "queue.SimpleQueue[Event]"
